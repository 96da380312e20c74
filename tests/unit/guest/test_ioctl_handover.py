# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests are declared with is what the helper takes: the two know the same definition."""

from __future__ import annotations

import json

from ansible.module_utils.guest.engine import Host
from ansible.module_utils.guest.ioctl import definition
from ansible.module_utils.guest.ioctl.dialect import IoctlDialect, Limits, machine
from ansible.module_utils.guest.spec import read
from ansible.module_utils.kvm.definition import life, read_definition
from ansible.module_utils.kvm.layout import FIRST_UID, Layout

FULL = {
    "name": "web",
    "engine": "ioctl",
    "kernel": "greeter",
    "memory": "64MiB",
    "vcpus": 2,
    "disks": [
        {"target": "vda", "file": "/srv/a.qcow2", "size": "1GiB", "image": "/srv/base"},
        {"target": "vdb", "file": "/srv/b", "format": "raw", "readonly": True, "serial": "b"},
    ],
    "nics": [{"bridge": "br0", "mtu": 1400, "queues": 2, "vhost": False}, {"bridge": "br1"}],
    "pmem": [{"file": "/srv/pmem", "readonly": True}],
    "shares": [{"tag": "data", "path": "/srv/data"}],
    "console": {"ports": ["agent.0"]},
    "vsock": {"cid": 7},
    "watchdog": {"action": "stop"},
    "memory_backing": {"hugepage_size": "2MiB"},
    "cpu_tuning": {"vcpu_pins": {"0": "0"}, "nice": 5},
    "rng": True,
    "balloon": True,
    "on_reboot": "stop",
    "stop_timeout": "200s",
}


def test_the_helper_takes_all_that_can_be_declared(tmp_path):
    host = Host(name="kvm1", kernel="/boot/vmlinuz-2")
    dialect = IoctlDialect(Limits(programs=("greeter",)), host)
    spec = dialect.complete(read([FULL], {"ioctl": dialect})[0].stated, None)
    files = {"/srv/a.qcow2": ["/srv/base"]}
    made = definition.make(spec, machine(spec, host), "local", "an id", FIRST_UID, files)
    paths = Layout(str(tmp_path)).guest("web")
    tmp_path.joinpath("var/lib/virtfleet/guests/web").mkdir(parents=True)
    tmp_path.joinpath("var/lib/virtfleet/guests/web/definition.json").write_text(json.dumps(made))
    found = read_definition(paths)
    assert found == made
    lived = life(found["machine"])
    assert (lived.restarts, lived.stop_timeout, lived.watchdog_resets) == (False, 200.0, False)
    assert lived.tuning.nice == 5
