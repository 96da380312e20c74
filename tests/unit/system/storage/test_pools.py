# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Thin pools: sizes in extents, what fits, and that a second run finds nothing to do."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.storage.lvm import Group, Pool
from ansible.module_utils.system.storage.pools import (
    PoolWish,
    metadata_extents,
    parse_pools,
    plan_pools,
    wanted_extents,
)

MIB, GIB = 1 << 20, 1 << 30
EXTENT = 4 * MIB


def group(total=2559, free=None, pools=None, volumes=()):
    free = total if free is None else free
    return Group("vg", EXTENT, total, free, frozenset(), pools or {}, volumes)


def percent(share, **more):
    return PoolWish("pool", f"{share}%", percent=share, **more)


def size(count, **more):
    return PoolWish("pool", f"{count // MIB}MiB", bytes=count, **more)


def commands(outcome):
    return [operation.argv for step in outcome.steps for operation in step.operations]


def test_a_pool_of_a_size_is_made(context):
    outcome = plan_pools([size(GIB, metadata=8 * MIB, chunk=128 << 10)], group(), context)
    assert commands(outcome) == [
        (
            *("lvcreate", "--yes", "--type", "thin-pool"),
            *("--extents", "256", "--poolmetadatasize", f"{8 * MIB}b"),
            *("--chunksize", "131072b", "--name", "pool", "vg"),
        )
    ]
    action = outcome.steps[0].action
    assert (action.action, action.object) == ("create", "thin_pool/vg/pool")
    assert [(change.path, change.after) for change in action.changes] == [
        ("size", "1024MiB"),
        ("metadata_size", "8MiB"),
        ("chunk_size", "128KiB"),
    ]


@pytest.mark.parametrize(
    ("wish", "data", "extents"),
    [
        (percent(80), 1, 1),  # never below 2 MiB, a whole extent
        (percent(80), 256 * 1024, 256),  # 1 TiB of data: 1 GiB of metadata
        (percent(80), 1 << 24, 3840),  # never above 15 GiB
        (size(GIB, metadata=9 * MIB), 256, 3),  # as stated, in whole extents
    ],
)
def test_the_metadata_is_a_thousandth_unless_stated(wish, data, extents):
    assert metadata_extents(wish, data, EXTENT) == extents


@pytest.mark.parametrize(
    ("wish", "extents"),
    [
        (size(GIB), 256),
        (size(GIB + 1), 257),
        (percent(80), 2047),
        (percent(100), 2553),  # the metadata and its spare, three extents each, stay free
    ],
)
def test_sizes_become_extents(wish, extents):
    assert wanted_extents(wish, group()) == extents


@pytest.mark.parametrize("share", [2, 50, 80, 99, 100])
@pytest.mark.parametrize("total", [63, 2559, 262143])
def test_a_second_run_finds_nothing_to_do(context, share, total):
    wish = percent(share)
    first = plan_pools([wish], group(total), context)
    assert first.blocked == ()
    argv = commands(first)[0]
    data = int(argv[argv.index("--extents") + 1])
    metadata = int(argv[argv.index("--poolmetadatasize") + 1][:-1]) // EXTENT
    free = total - data - 2 * metadata
    assert free >= 0
    made = group(total, free, {"pool": Pool(data * EXTENT, metadata * EXTENT)}, ("pool",))
    again = plan_pools([wish], made, context)
    assert (again.steps, again.pending, again.blocked) == ((), (), ())


def test_what_does_not_fit_is_refused_with_the_numbers(context):
    outcome = plan_pools([size(11 * GIB)], group(), context)
    assert outcome.steps == ()
    assert [item.object for item in outcome.blocked] == ["thin_pool/vg/pool"]
    assert outcome.blocked[0].reason == (
        "11264MiB with its metadata takes 11288MiB, and 10236MiB is free in vg"
    )


def test_a_share_of_less_than_an_extent_is_refused(context):
    outcome = plan_pools([percent(1)], group(63), context)
    assert outcome.steps == ()
    assert [item.object for item in outcome.blocked] == ["thin_pool/vg/pool"]


def test_a_share_of_a_group_that_others_filled_is_refused(context):
    outcome = plan_pools([percent(80)], group(free=100), context)
    assert [item.object for item in outcome.blocked] == ["thin_pool/vg/pool"]


def test_a_second_pool_gets_what_the_first_leaves(context):
    second = PoolWish("more", "6144MiB", bytes=6 * GIB)
    outcome = plan_pools([size(6 * GIB), second], group(), context)
    assert [step.action.object for step in outcome.steps] == ["thin_pool/vg/pool"]
    assert [item.object for item in outcome.blocked] == ["thin_pool/vg/more"]


def pool(extents, metadata=3):
    return {"pool": Pool(extents * EXTENT, metadata * EXTENT)}


@pytest.mark.parametrize(
    ("wish", "found", "argv"),
    [
        (size(2 * GIB), group(free=600, pools=pool(256)), [("--extents", "512")]),
        (percent(80), group(free=2000, pools=pool(500)), [("--extents", "2047")]),
        (percent(80), group(free=100, pools=pool(500)), [("--extents", "600")]),
        (
            size(GIB, metadata=16 * MIB),
            group(free=2, pools=pool(256)),
            [("--poolmetadatasize", f"{16 * MIB}b")],
        ),
        (
            size(2 * GIB, metadata=16 * MIB),
            group(free=300, pools=pool(256)),
            [("--poolmetadatasize", f"{16 * MIB}b"), ("--extents", "512")],
        ),
    ],
)
def test_a_pool_grows(context, wish, found, argv):
    outcome = plan_pools([wish], found, context)
    assert [step.action.action for step in outcome.steps] == ["grow"]
    assert commands(outcome) == [("lvextend", *words, "vg/pool") for words in argv]


def test_growth_that_does_not_fit_is_refused(context):
    outcome = plan_pools([size(2 * GIB)], group(free=10, pools=pool(256)), context)
    assert outcome.steps == ()
    assert outcome.blocked[0].reason == "it needs 1GiB more, and 40MiB is free"


def test_a_pool_is_never_made_smaller(context):
    outcome = plan_pools([size(GIB)], group(pools=pool(512)), context)
    assert outcome.steps == ()
    assert [(item.kind, item.reason) for item in outcome.pending] == [
        ("cannot_shrink", "it is 2GiB, larger than 1024MiB")
    ]
    assert plan_pools([percent(1)], group(pools=pool(512)), context).pending == ()


def test_a_volume_of_the_name_is_not_taken_for_a_pool(context):
    outcome = plan_pools([size(GIB)], group(volumes=("pool",)), context)
    assert outcome.steps == ()
    assert "no thin pool" in outcome.blocked[0].reason


def item(**more):
    return {"name": "pool", "size": "10GiB", **more}


def test_pools_are_read(check):
    pools = parse_pools(
        [item(metadata_size="1GiB"), item(name="b", size="100%", chunk_size="1MiB")], "p", check
    )
    assert check.problems == []
    assert pools == (
        PoolWish("pool", "10GiB", 10 * GIB, 0, GIB),
        PoolWish("b", "100%", 0, 100, 0, MIB),
    )


@pytest.mark.parametrize(
    ("items", "path"),
    [
        ([item(name="a/b")], "p[0].name"),
        ([item(name="pool_tmeta")], "p[0].name"),
        ([item(name="pvmove0")], "p[0].name"),
        ([item(size="10")], "p[0].size"),
        ([item(size="10G")], "p[0].size"),
        ([item(size="0GiB")], "p[0].size"),
        ([item(size="0%")], "p[0].size"),
        ([item(size="101%")], "p[0].size"),
        ([item(metadata_size="1MiB")], "p[0].metadata_size"),
        ([item(metadata_size="16GiB")], "p[0].metadata_size"),
        ([item(chunk_size="100KiB")], "p[0].chunk_size"),
        ([item(), item()], "p[1]"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(check, items, path):
    parse_pools(items, "p", check)
    assert [problem.path for problem in check.problems] == [path]
