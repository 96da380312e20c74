# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared is checked as a whole, before any host is looked at."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system.device_access import Access
from ansible.module_utils.system.hugepages import Pool
from ansible.module_utils.system.kernel_modules import Observed
from ansible.module_utils.system.options import Options, parse, resolve

BAD = [
    ("modules", ["kvm;reboot"], "modules[0]"),
    ("modules", ["kvm", ""], "modules[1]"),
    ("modules", ["../kvm"], "modules[0]"),
    ("modules", ["-r"], "modules[0]"),
    ("modules", ["a" * 56], "modules[0]"),
    ("module_options", {"kvm amd": {"nested": True}}, "module_options"),
    ("module_options", {7: {"nested": True}}, "module_options"),
    ("module_options", {"kvm": True}, "module_options.kvm"),
    ("module_options", {"kvm": {}}, "module_options.kvm"),
    ("module_options", {"kvm": {"a b": 1}}, "module_options.kvm"),
    ("module_options", {"kvm": {"nested": None}}, "module_options.kvm.nested"),
    ("module_options", {"kvm": {"nested": 1.5}}, "module_options.kvm.nested"),
    ("module_options", {"kvm": {"nested": [1]}}, "module_options.kvm.nested"),
    ("module_options", {"kvm": {"nested": ""}}, "module_options.kvm.nested"),
    ("module_options", {"kvm": {"nested": "1\ninstall kvm /bin/sh"}}, "module_options.kvm.nested"),
    ("module_options", {"kvm": {"nested": "1 npt=0"}}, "module_options.kvm.nested"),
    ("cmdline", ["amd_iommu=on iommu=pt"], "cmdline[0]"),
    ("cmdline", ["a=1\nb"], "cmdline[0]"),
    ("cmdline", ['a="b"'], "cmdline[0]"),
    ("cmdline", ["ok", "a='b'"], "cmdline[1]"),
    ("cmdline", ["$(reboot)"], "cmdline[0]"),
    ("cmdline", ["a=`id`"], "cmdline[0]"),
    ("cmdline", ["a\\b"], "cmdline[0]"),
    ("cmdline", ["a;b"], "cmdline[0]"),
    ("cmdline", ["a&b"], "cmdline[0]"),
    ("cmdline", ["a#b"], "cmdline[0]"),
    ("cmdline", ["a=é"], "cmdline[0]"),
    ("cmdline", [""], "cmdline[0]"),
    ("cmdline", ["--"], "cmdline[0]"),
    ("cmdline", ["root=/dev/sda"], "cmdline[0]"),
    ("cmdline", ["initrd=/x"], "cmdline[0]"),
    ("cmdline", ["BOOT_IMAGE=x"], "cmdline[0]"),
    ("cmdline", ["a" * 257], "cmdline[0]"),
    ("cmdline", ["a" * 250] * 5, "cmdline"),
    ("sysctl", {"swappiness": 1}, "sysctl"),
    ("sysctl", {"vm/../kernel": 1}, "sysctl"),
    ("sysctl", {"vm..swappiness": 1}, "sysctl"),
    ("sysctl", {"/vm/swappiness": 1}, "sysctl"),
    ("sysctl", {"net.ipv4.conf.*.rp_filter": 1}, "sysctl"),
    ("sysctl", {"vm.swappiness\n": 1}, "sysctl"),
    ("sysctl", {3: 1}, "sysctl"),
    ("sysctl", {"vm.swappiness": None}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": ""}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": " 1"}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": "1\nkernel.panic = 1"}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": 1.5}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": [1]}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": "9" * 1025}, "sysctl.vm.swappiness"),
    ("sysctl", {"vm.swappiness": 1, "vm/swappiness": 2}, "sysctl.vm/swappiness"),
    ("hugepages", [{"size": "2M", "count": 1}], "hugepages[0].size"),
    ("hugepages", [{"size": 2048, "count": 1}], "hugepages[0].size"),
    ("hugepages", [{"count": 1}], "hugepages[0].size"),
    ("hugepages", [{"size": "2MiB", "count": -1}], "hugepages[0].count"),
    ("hugepages", [{"size": "2MiB", "count": True}], "hugepages[0].count"),
    ("hugepages", [{"size": "2MiB", "count": 1 << 41}], "hugepages[0].count"),
    ("hugepages", [{"size": "2MiB"}], "hugepages[0].count"),
    ("hugepages", [{"size": "2MiB", "count": 1, "node": -1}], "hugepages[0].node"),
    ("hugepages", [{"size": "2MiB", "count": 1}, {"size": "2048KiB", "count": 1}], "hugepages[1]"),
    (
        "hugepages",
        [{"size": "2MiB", "count": 1}, {"size": "2MiB", "count": 1, "node": 0}],
        "hugepages[1]",
    ),
    ("ksm", {"pages_to_scan": 0}, "ksm.pages_to_scan"),
    ("ksm", {"pages_to_scan": 1 << 32}, "ksm.pages_to_scan"),
    ("ksm", {"sleep": "20"}, "ksm.sleep"),
    ("ksm", {"sleep": "0.5ms"}, "ksm.sleep"),
    ("ksm", {"sleep": "2h"}, "ksm.sleep"),
    ("thp", {"enabled": "sometimes"}, "thp.enabled"),
    ("thp", {"defrag": "alway"}, "thp.defrag"),
    ("governor", "performance\n", "governor"),
    ("governor", "a b", "governor"),
    ("governor", "", "governor"),
    ("device_access", {"group": "kvm:x", "mode": "0660"}, "device_access.group"),
    ("device_access", {"group": "-kvm", "mode": "0660"}, "device_access.group"),
    ("device_access", {"group": None, "mode": "0660"}, "device_access.group"),
    ("device_access", {"group": "kvm", "mode": "0777"}, "device_access.mode"),
    ("device_access", {"group": "kvm", "mode": "4660"}, "device_access.mode"),
    ("device_access", {"group": "kvm", "mode": "rw-rw----"}, "device_access.mode"),
    ("device_access", {"group": "kvm", "mode": 432}, "device_access.mode"),
]


@pytest.mark.parametrize(("option", "value", "path"), BAD)
def test_bad_input_is_named_by_its_path(option, value, path):
    with pytest.raises(InputError) as raised:
        parse({option: value})
    assert [problem.path for problem in raised.value.problems] == [path]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(InputError, match="3 problems in the input, nothing was changed"):
        parse({"modules": ["a b"], "cmdline": ["c d"], "governor": "e f"})


def test_nothing_stated_is_nothing():
    assert parse({}) == Options()
    assert parse(dict.fromkeys(["modules", "sysctl", "ksm", "device_access"])) == Options()


def test_a_full_declaration_in_its_canonical_form():
    assert parse(
        {
            "modules": ["vendor", "vhost-net"],
            "module_options": {
                "kvm_amd": {"nested": True, "npt": "no", "avic": "Y", "sev": 0, "x": "a,b"}
            },
            "cmdline": ["hugepagesz=1G", "vfio-pci.ids=8086:1521,8086:10fb", "isolcpus=2-3"],
            "sysctl": {"net.ipv4.conf.eth0/100.forwarding": True},
            "hugepages": [{"size": "1GiB", "count": 0, "node": 1}],
            "device_access": {"group": "kvm", "mode": "660"},
        }
    ) == Options(
        modules=("vendor", "vhost-net"),
        module_options={
            "kvm_amd": {"nested": "1", "npt": "0", "avic": "Y", "sev": "0", "x": "a,b"}
        },
        cmdline=("hugepagesz=1G", "vfio-pci.ids=8086:1521,8086:10fb", "isolcpus=2-3"),
        sysctl={"net.ipv4.conf.eth0/100.forwarding": True},
        hugepages=(Pool(1 << 30, 0, 1),),
        device=Access("kvm", "0660"),
    )


def test_names_of_modules_are_resolved_for_the_machine():
    problems = []
    stated = Options(
        modules=("vendor", "vhost-net", "kvm-amd"),
        module_options={"vendor": {"nested": "1"}, "kvm-amd": {"npt": "1", "nested": "1"}},
    )
    found = resolve(stated, Observed(vendor="kvm_amd"), problems)
    assert problems == []
    assert found.modules == ("kvm_amd", "vhost_net")
    assert found.module_options == {"kvm_amd": {"nested": "1", "npt": "1"}}


def test_two_values_for_one_parameter_and_an_unknown_processor_are_refused():
    problems = []
    options = {"vendor": {"nested": "1"}, "kvm_amd": {"nested": "0"}}
    resolve(Options(module_options=options), Observed(vendor="kvm_amd"), problems)
    resolve(Options(modules=("vendor",), module_options=options), Observed(), problems)
    assert [problem.path for problem in problems] == [
        "module_options.kvm_amd.nested",
        "modules[0]",
        "module_options.vendor",
    ]
