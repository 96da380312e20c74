# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine is and what it boots: type, firmware, kernel, features, clock, events.

Sources: formatdomain, "Operating system booting", "Hypervisor features", "Time keeping",
"Events configuration", "Power Management", "SMBIOS System Information", "Launch Security".
"""

from __future__ import annotations

from typing import Any

from ..converge.action import LIVE, REPLACE
from .codecs import Alias, Pattern, Whole, Words
from .compound import Several
from .document import Element, remove
from .fields import Edits, Field, Group, Leaf
from .lists import Map
from .words import COUNT, LINES, NUMBER, ON, PATH, TEXT, THERE, UUID, YES, choice

ARCHITECTURES = "x86_64 i686 aarch64 armv7l ppc64 ppc64le s390x riscv64"
TIMERS = {
    # name of the timer: whether it can be told how to catch up
    "rtc": True,
    "pit": True,
    "hpet": True,
    "tsc": True,
    "platform": True,
    "kvmclock": False,
    "hypervclock": False,
    "armvtimer": True,
}
HYPERV = (
    "relaxed vapic vpindex runtime synic stimer reset frequencies reenlightenment tlbflush ipi"
    " evmcs"
)


class _FirmwareType(Leaf):
    """os/@firmware; a loader in flash that was named by hand is UEFI too, nothing is BIOS."""

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        found = super().get(scope)
        if found is None and scope.find("os/loader[@type='pflash']") is not None:
            return "uefi"
        return found

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        if value == "bios":  # what libvirt does by itself, on every host
            self.erase(scope)
        else:
            super().put(scope, value)


class _SecureBoot(Leaf):
    """The wish for it where libvirt chooses the firmware, and the loader's own mark elsewhere."""

    def loader(self, scope: Element) -> Element | None:
        """Return the loader that was named by hand, None for none."""
        os = scope.find("os")
        if os is None or os.get("firmware") is not None:
            return None
        return os.find("loader")

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        loader = self.loader(scope)
        return super().get(scope) if loader is None else YES.get(loader, "secure")

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make it what was stated; a loader that does not say that it is secure is not."""
        loader = self.loader(scope)
        if value is False and loader is not None and not YES.get(loader, "secure"):
            return
        super().patch(scope, value, edits, path)

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        loader = self.loader(scope)
        if loader is None:
            super().put(scope, value)
        else:
            YES.put(loader, "secure", value)

    def erase(self, scope: Element) -> None:
        """Take it away."""
        loader = self.loader(scope)
        if loader is None:
            super().erase(scope)
        else:
            loader.attrib.pop("secure", None)


class _BootDevices(Leaf):
    """The <boot dev=…> of <os>: BIOS's own order of kinds of devices."""

    def erase(self, scope: Element) -> None:
        """Take it away."""
        os = scope.find("os")
        if os is not None:
            for child in os.findall("boot"):
                remove(os, child)


FIRMWARE = Group(
    "firmware",
    (
        _FirmwareType(
            "type",
            "os@firmware",
            Words("a kind of firmware", ("bios", "uefi"), {"uefi": "efi"}),
            absent="bios",
            clears=("firmware", "loader", "nvram"),
        ),
        Leaf("loader", "os/loader", PATH),
        Leaf("loader_type", "os/loader@type", choice("a loader's type", "rom pflash")),
        Leaf("loader_readonly", "os/loader@readonly", YES),
        Leaf("stateless", "os/loader@stateless", YES, absent=False),
        _SecureBoot("secure_boot", "os/firmware/feature[name=secure-boot]@enabled", YES),
        Leaf("enrolled_keys", "os/firmware/feature[name=enrolled-keys]@enabled", YES),
        Leaf("nvram", "os/nvram", PATH),
        Leaf("nvram_template", "os/nvram@template", PATH),
    ),
)

FEATURES = Group(
    "features",
    (
        Leaf("acpi", "features/acpi", THERE, absent=False),
        Leaf("apic", "features/apic", THERE, absent=False),
        Leaf("apic_eoi", "features/apic@eoi", ON),
        Leaf("pae", "features/pae", THERE, absent=False),
        Leaf("hap", "features/hap@state", ON),
        Leaf("pmu", "features/pmu@state", ON),
        Leaf("vmport", "features/vmport@state", ON),
        Leaf("smm", "features/smm@state", ON),
        Leaf("vmcoreinfo", "features/vmcoreinfo@state", ON),
        Leaf("ioapic", "features/ioapic@driver", choice("an I/O APIC", "qemu kvm")),
        Leaf("gic", "features/gic@version", choice("a GIC version", "host 2 3")),
        Leaf("kvm_hidden", "features/kvm/hidden@state", ON),
        Leaf("kvm_hint_dedicated", "features/kvm/hint-dedicated@state", ON),
        Leaf("kvm_poll_control", "features/kvm/poll-control@state", ON),
    ),
)


class _HypervMode(Leaf):
    """Whether the enlightenments are chosen one by one, or those of the host are all there."""

    def clear(self, element: Element, value: Any) -> None:
        """Take away those that were chosen."""
        for child in list(element) if value == "passthrough" else ():
            remove(element, child)


HYPERV_GROUP = Group(
    "hyperv",
    (
        _HypervMode("mode", "features/hyperv@mode", choice("a mode", "custom passthrough")),
        *(Leaf(name, f"features/hyperv/{name}@state", ON) for name in HYPERV.split()),
        Leaf("stimer_direct", "features/hyperv/stimer/direct@state", ON),
        Leaf(
            "spinlocks",
            "features/hyperv/spinlocks@retries",
            Whole("a number of tries", 4095, (1 << 32) - 1),
            make={"state": "on"},
        ),
        Leaf(
            "vendor_id",
            "features/hyperv/vendor_id@value",
            Pattern("at most 12 characters without a comma", r"[^,]{1,12}"),
            make={"state": "on"},
        ),
    ),
)


def _timer(name: str) -> Group:
    at = f"timer[name={name}]"
    fields: list[Field] = [Leaf("present", f"{at}@present", YES)]
    if TIMERS[name]:
        policy = choice("a policy", "delay catchup merge discard")
        fields.append(Leaf("tickpolicy", f"{at}@tickpolicy", policy))
    if name in ("rtc", "platform"):
        track = choice("what it follows", "boot guest wall realtime")
        fields.append(Leaf("track", f"{at}@track", track))
    if name == "tsc":
        modes = choice("a mode", "auto native emulate paravirt smpsafe")
        fields += [Leaf("mode", f"{at}@mode", modes), Leaf("frequency", f"{at}@frequency", COUNT)]
    return Group(name, tuple(fields))


CLOCK = Group(
    "clock",
    (
        Leaf(
            "offset",
            "@offset",
            choice("an offset", "utc localtime timezone variable absolute"),
            absent="utc",
            required=True,
            clears=("@timezone", "@adjustment", "@basis", "@start"),
        ),
        Leaf("timezone", "@timezone", Pattern("a time zone", r"[a-zA-Z0-9_.+\-/]+")),
        Leaf("adjustment", "@adjustment", Pattern("seconds, or reset", r"[+\-]?[0-9]{1,9}|reset")),
        Leaf("basis", "@basis", choice("a basis", "utc localtime")),
        Leaf("start", "@start", Whole("seconds since 1970", 0, 1 << 40)),
        Group("timers", tuple(_timer(name) for name in TIMERS)),
    ),
    at="clock",
    make={"offset": "utc"},
)

_ENDS = choice("what happens then", "destroy restart preserve rename-restart")
_CRASH = choice(
    "what happens then",
    "destroy restart preserve rename-restart coredump-destroy coredump-restart",
)


def _entries(key: str, tag: str, names: str) -> Map:
    known = choice("an entry", names)
    return Map(key, f"sysinfo[type=smbios]/{tag}", "entry", "name", None, known, TEXT)


SYSINFO = Group(
    "sysinfo",
    (
        _entries("bios", "bios", "vendor version date release"),
        _entries("system", "system", "manufacturer product version serial uuid sku family"),
        _entries("board", "baseBoard", "manufacturer product version serial asset location"),
    ),
)

# Files that firmware or the guest reads at boot; other names than opt/ are QEMU's own.
FW_CFG = Map(
    "fw_cfg",
    "sysinfo[type=fwcfg]",
    "entry",
    "name",
    "file",
    Pattern(
        "a name such as opt/com.coreos/config", r"opt/(?!ovmf/|org\.qemu/)[a-zA-Z0-9_.\-/]{1,51}"
    ),
    PATH,
)

LAUNCH_SECURITY = Group(
    "launch_security",
    (
        Leaf("type", "@type", choice("a type", "sev"), required=True),
        Leaf("policy", "policy", Whole("a number", 0, (1 << 32) - 1, base=16), required=True),
        Leaf("cbitpos", "cbitpos", NUMBER),
        Leaf("reduced_phys_bits", "reducedPhysBits", NUMBER),
        Leaf("kernel_hashes", "@kernelHashes", YES),
        Leaf("dh_cert", "dhCert", TEXT),
        Leaf("session", "session", TEXT),
    ),
    at="launchSecurity",
    thing=True,
    fresh=lambda _stated: {"type": "sev", "policy": 3},  # no debugging, no sharing of the key
)

FIELDS: tuple[Field, ...] = (
    Leaf("title", "title", TEXT, when=LIVE),
    Leaf("description", "description", LINES, when=LIVE),
    Leaf("uuid", "uuid", UUID, when=REPLACE, required=True),
    Leaf(
        "accel",
        "@type",
        Words("an accelerator", ("kvm", "tcg"), {"tcg": "qemu"}),
        required=True,
    ),
    Leaf("arch", "os/type@arch", choice("an architecture", ARCHITECTURES), REPLACE, required=True),
    Leaf(
        "machine",
        "os/type@machine",
        Alias("a machine type", r"[a-zA-Z0-9_.\-]+"),
        required=True,
    ),
    Leaf("emulator", "devices/emulator", PATH),
    FIRMWARE,
    Leaf("kernel", "os/kernel", PATH, blank=True),
    Leaf("initrd", "os/initrd", PATH, blank=True),
    Leaf("cmdline", "os/cmdline", TEXT, blank=True),
    Leaf("dtb", "os/dtb", PATH),
    _BootDevices(
        "boot_devices",
        "os",
        Several("a kind of device", "boot", "dev", ("hd", "cdrom", "network", "fd")),
    ),
    Leaf("boot_menu", "os/bootmenu@enable", YES),
    Leaf("boot_menu_timeout", "os/bootmenu@timeout", Whole("milliseconds", 0, 65535)),
    Leaf("smbios", "os/smbios@mode", choice("a source", "emulate host sysinfo")),
    SYSINFO,
    FW_CFG,
    FEATURES,
    HYPERV_GROUP,
    CLOCK,
    Leaf("on_poweroff", "on_poweroff", _ENDS, LIVE, "destroy"),
    Leaf("on_reboot", "on_reboot", _ENDS, LIVE, "restart"),
    Leaf("on_crash", "on_crash", _CRASH, LIVE, "destroy"),
    Leaf(
        "on_lockfailure",
        "on_lockfailure",
        choice("what happens then", "poweroff restart pause ignore"),
    ),
    Group(
        "power_management",
        (
            Leaf("suspend_to_mem", "pm/suspend-to-mem@enabled", YES),
            Leaf("suspend_to_disk", "pm/suspend-to-disk@enabled", YES),
        ),
    ),
    LAUNCH_SECURITY,
)
