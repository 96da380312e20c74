# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module options: for the next load, put live, or brought by a reload where that is safe."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import module_options
from ansible.module_utils.system.module_options import Module, Observed
from ansible.module_utils.system.operation import Put, Run


def never(argv):
    raise AssertionError(f"an unexpected command: {argv}")


def kvm(references=1, **parameters):
    return Module(
        {"halt_poll_ns": "200000", "tdp_mmu": "Y", **parameters},
        frozenset({"halt_poll_ns"}),
        ("kvm_amd",),
        references,
    )


def amd(references=0, **parameters):
    return Module({"nested": "1", "avic": "N", **parameters}, references=references)


BOTH = Observed({"kvm": kvm(), "kvm_amd": amd()})


def plan(options, observed=BOTH, refused=()):
    return module_options.plan(options, observed, dict(refused), "kvm1")


def test_a_machine_is_read_with_what_leans_on_the_module(tmp_path):
    for path, content, mode in [
        ("kvm/parameters/halt_poll_ns", "200000\n", 0o644),
        ("kvm/parameters/tdp_mmu", "Y\n", 0o444),
        ("kvm/holders/kvm_amd", "", 0o444),
        ("kvm/refcnt", "1\n", 0o444),
        ("kvm_amd/parameters/nested", "1\n", 0o444),
        ("kvm_amd/parameters/avic", "N\n", 0o444),
        ("kvm_amd/refcnt", "0\n", 0o444),
    ]:
        full = tmp_path / "sys/module" / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(content)
        full.chmod(mode)
    assert module_options.read(str(tmp_path), {"kvm": {}, "kvm_intel": {"ept": "1"}}, never) == BOTH


@pytest.mark.parametrize(
    ("answer", "listed"),
    [
        ((0, "zzz_one:what it does (bool)\nzzz_two:x:y (int)\n", ""), {"zzz_one", "zzz_two"}),
        ((0, "", ""), set()),
        ((1, "", "modinfo: ERROR: Module virtfleet_none not found."), None),
        ((127, "", "modinfo: No such file or directory"), None),
    ],
)
def test_modinfo_is_asked_about_what_the_kernel_does_not_show(answer, listed):
    def run(argv):
        assert argv == ("modinfo", "-F", "parm", "virtfleet_none")
        return answer

    found = module_options.read("/", {"virtfleet_none": {"a": "1"}}, run).listed.get(
        "virtfleet_none"
    )
    assert found == listed


@pytest.mark.parametrize(
    ("observed", "options", "paths"),
    [
        (BOTH, {"kvm": {"tdp_mmu": "1"}}, []),
        (BOTH, {"kvm": {"tdp_mmuu": "1"}}, ["module_options.kvm.tdp_mmuu"]),
        (BOTH, {"kvm_intel": {"anything": "1"}}, []),
        (
            Observed({}, {"tun": frozenset({"a"})}),
            {"tun": {"a": "1", "b": "1"}},
            ["module_options.tun.b"],
        ),
        (Observed({"kvm": kvm()}, {"kvm": frozenset({"hidden"})}), {"kvm": {"hidden": "1"}}, []),
    ],
)
def test_a_parameter_that_the_module_does_not_have_is_named(observed, options, paths):
    problems = module_options.check_known(options, observed)
    assert [problem.path for problem in problems] == paths


def test_the_file_has_a_line_a_module():
    options = {"kvm_amd": {"nested": "1", "avic": "0"}, "kvm": {"x": "a,b"}}
    assert module_options.lines(options) == ["options kvm_amd nested=1 avic=0", "options kvm x=a,b"]


@pytest.mark.parametrize(
    ("options", "operations"),
    [
        ({"kvm_amd": {"nested": "1", "avic": "0"}, "kvm": {"tdp_mmu": "1"}}, []),
        ({"kvm_amd": {"nested": "Y", "avic": "n"}}, []),
        ({"kvm": {"halt_poll_ns": "0x30d40"}}, []),
        ({"kvm_intel": {"ept": "1"}}, []),
        ({"kvm": {"hidden": "1"}}, []),
        (
            {"kvm": {"halt_poll_ns": "0"}},
            [(Put("/sys/module/kvm/parameters/halt_poll_ns", "0"),)],
        ),
        (
            {"kvm_amd": {"avic": "1"}},
            [(Run(("modprobe", "-r", "kvm_amd")), Run(("modprobe", "kvm_amd")))],
        ),
        (
            {"kvm_amd": {"avic": "1"}, "kvm": {"tdp_mmu": "0"}},
            [
                (
                    Run(("modprobe", "-r", "kvm_amd", "kvm")),
                    Run(("modprobe", "kvm")),
                    Run(("modprobe", "kvm_amd")),
                )
            ],
        ),
    ],
)
def test_differences_are_put_live_or_take_a_reload(options, operations):
    outcome = plan(options)
    assert [step.operations for step in outcome.steps] == operations
    assert (outcome.pending, outcome.blocked) == ((), ())


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (Observed({"kvm": kvm(), "kvm_amd": amd(2)}), "kvm_amd is in use (2 times"),
        (Observed({"kvm": kvm(3), "kvm_amd": amd()}), "kvm is in use (2 times"),
        (Observed({"kvm": kvm(None), "kvm_amd": amd()}), "kvm is built into the kernel"),
        (Observed({"kvm": kvm(), "kvm_amd": amd(None)}), "kvm_amd is built into the kernel"),
    ],
)
def test_what_is_in_use_or_built_in_is_not_reloaded(observed, reason):
    outcome = plan({"kvm": {"tdp_mmu": "0"}, "kvm_amd": {"avic": "1"}}, observed)
    assert outcome.steps == ()
    assert [(item.object, item.kind) for item in outcome.pending] == [
        ("module/kvm", "reload_required"),
        ("module/kvm_amd", "reload_required"),
    ]
    assert reason in outcome.pending[0].reason
    assert [(c.path, c.before, c.after) for c in outcome.pending[0].changes] == [
        ("tdp_mmu", "Y", "0")
    ]
    assert outcome.pending[0].remedy


def test_the_changes_of_a_reload_say_which_module():
    options = {"kvm": {"tdp_mmu": "0"}, "kvm_amd": {"avic": "1"}}
    (both,) = plan(options).steps
    assert both.action.object == "module/kvm,kvm_amd"
    assert [change.path for change in both.action.changes] == ["kvm.tdp_mmu", "kvm_amd.avic"]
    (one,) = plan({"kvm_amd": {"avic": "1"}}).steps
    assert [change.path for change in one.action.changes] == ["avic"]


def test_what_the_module_did_not_take_is_not_tried_again():
    refused = {"/sys/module/kvm_amd/parameters/avic": "1"}
    outcome = plan({"kvm_amd": {"avic": "1"}}, refused=refused)
    assert outcome.steps == ()
    assert [item.kind for item in outcome.pending] == ["not_available"]
    assert plan({"kvm_amd": {"avic": "1", "nested": "0"}}, refused=refused).steps
