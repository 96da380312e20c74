# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cloud-config may say, as a table, and what a document has against it.

The keys are those of https://docs.cloud-init.io/en/latest/reference/modules.html, with those that
cloud-init 22.4 (Debian 12) still takes. What belongs to a tool of its own (Ansible, Chef, Puppet,
LXD, …) is looked at no further than that it is a mapping.
"""

from __future__ import annotations

import re
from typing import Any, Iterator, Mapping, NamedTuple

from ..converge.errors import Problem
from . import shape
from .shape import (
    ANY,
    BOOLEAN,
    LIST,
    MAPPING,
    NOTHING,
    SCALAR,
    TEXT,
    WHOLE,
    Shape,
    each,
    form,
    keyed,
    named,
    word,
)

_HEAD = "#cloud-config"
_OTHER_HEADS = ("#cloud-config-archive", "#cloud-config-jsonp")


def _all(wanted: Shape, *keys: str) -> dict[str, Shape]:
    return dict.fromkeys(keys, wanted)


_TEXTS = each(TEXT)
_TEXT_OR_TEXTS = TEXT | _TEXTS
# --- users and groups

_USER: dict[str, Shape] = {
    **_all(TEXT, "name", "snapuser", "gecos", "homedir", "shell", "primary_group", "selinux_user"),
    **_all(TEXT, "passwd", "hashed_passwd", "plain_text_passwd", "expiredate", "inactive"),
    **_all(BOOLEAN, "lock_passwd", "no_create_home", "no_log_init", "no_user_group"),
    **_all(BOOLEAN, "create_groups", "ssh_redirect_user", "system"),
    **_all(_TEXTS, "doas", "ssh_authorized_keys", "ssh_import_id"),
    "groups": _TEXT_OR_TEXTS | named(NOTHING),
    "sudo": TEXT | BOOLEAN | each(TEXT | NOTHING) | NOTHING,
    "uid": TEXT | WHOLE,
}
_USER.update({key.replace("_", "-"): wanted for key, wanted in _USER.items()})
_A_USER = keyed(_USER, ("name", "snapuser"))
_MEMBERS = named(_TEXT_OR_TEXTS)
_PASSWORDS = keyed(
    {
        "expire": BOOLEAN,
        "users": each(
            keyed(
                {"name": TEXT, "password": TEXT, "type": word("hash", "text", "RANDOM")},
                "name",
                ("password", "type"),
            )
        ),
        "list": TEXT | each(form(r"(?s).+:.+", "a name and a password with a colon between")),
    }
)
_USERS: dict[str, Shape] = {
    "users": TEXT | each(_TEXT_OR_TEXTS | _A_USER) | named(TEXT | BOOLEAN | WHOLE | keyed(_USER)),
    "user": TEXT | _A_USER,
    "groups": TEXT | each(TEXT | _MEMBERS) | _MEMBERS,
    "password": TEXT,
    "chpasswd": _PASSWORDS,
    "ssh_pwauth": BOOLEAN | TEXT,
}

# --- SSH

_ALGORITHMS = ("rsa", "dsa", "ecdsa", "ed25519")
_SSH: dict[str, Shape] = {
    **_all(_TEXTS, "ssh_authorized_keys", "ssh_import_id"),
    **_all(_TEXTS, "ssh_fp_console_blacklist", "ssh_key_console_blacklist"),
    **_all(BOOLEAN, "ssh_deletekeys", "ssh_quiet_keygen", "disable_root", "no_ssh_fingerprints"),
    **_all(BOOLEAN, "allow_public_ssh_keys"),
    **_all(TEXT, "disable_root_opts", "authkey_hash"),
    "ssh_genkeytypes": each(word(*_ALGORITHMS)),
    "ssh_keys": keyed(
        {
            f"{name}_{part}": TEXT
            for name in _ALGORITHMS
            for part in ("private", "public", "certificate")
        }
    ),
    "ssh_publish_hostkeys": keyed({"enabled": BOOLEAN, "blacklist": _TEXTS}),
    "ssh": keyed({"emit_keys_to_console": BOOLEAN}, "emit_keys_to_console"),
}

# --- files and commands

_COMMAND = (TEXT | each(SCALAR) | NOTHING)._replace(
    remedy="quote a command that has a colon and a space in it"
)
_FILE = keyed(
    {
        **_all(TEXT, "path", "content", "owner"),
        **_all(BOOLEAN, "append", "defer"),
        "permissions": form(r"(?:0[oO]?)?[0-7]{1,4}", "a mode such as '0644'"),
        "encoding": word(
            *("b64", "base64", "gz", "gzip", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64"),
            "text/plain",
        ),
        "source": keyed({"uri": TEXT, "headers": named(TEXT)}, "uri"),
    },
    "path",
)
_FILES: dict[str, Shape] = {
    "write_files": each(_FILE),
    **_all(each(_COMMAND), "runcmd", "bootcmd"),
    "ca_certs": keyed({**_all(BOOLEAN, "remove_defaults", "remove-defaults"), "trusted": _TEXTS}),
    "random_seed": keyed(
        {
            **_all(TEXT, "file", "data"),
            "encoding": word("raw", "b64", "base64", "gz", "gzip"),
            "command": _TEXTS,
            "command_required": BOOLEAN,
        }
    ),
    "vendor_data": keyed({"enabled": BOOLEAN | TEXT, "prefix": TEXT | each(TEXT | WHOLE)}),
}
_FILES["ca-certs"] = _FILES["ca_certs"]

# --- packages

_PACKAGE = TEXT | each(TEXT, 2, 2)  # a name, or a name and a version
_MIRROR = keyed(
    {
        **_all(TEXT, "uri", "keyid", "key", "keyserver"),
        **_all(_TEXTS, "arches", "search"),
        "search_dns": BOOLEAN,
    },
    "arches",
)
_APT = keyed(
    {
        **_all(BOOLEAN, "preserve_sources_list", "generate_mirrorlists"),
        **_all(TEXT, "add_apt_repo_match", "sources_list", "conf"),
        **_all(TEXT, "proxy", "http_proxy", "https_proxy", "ftp_proxy"),
        **_all(each(_MIRROR), "primary", "security"),
        "disable_suites": _TEXTS,
        "debconf_selections": named(TEXT),
        "sources": named(
            keyed(
                {
                    **_all(TEXT, "source", "keyid", "key", "keyserver", "filename"),
                    "append": BOOLEAN,
                }
            )
        ),
    }
)
_YUM = keyed(
    _all(TEXT, "baseurl", "metalink", "mirrorlist"),
    ("baseurl", "metalink", "mirrorlist"),
    others=SCALAR,
)
_PACKAGES: dict[str, Shape] = {
    "packages": each(_PACKAGE | keyed(_all(each(_PACKAGE), "apt", "snap"))),
    **_all(BOOLEAN, "package_update", "package_upgrade", "package_reboot_if_required"),
    **_all(BOOLEAN, "apt_update", "apt_upgrade", "apt_reboot_if_required"),
    "apt": _APT,
    "apt_pipelining": BOOLEAN | WHOLE | word("os", "none", "unchanged"),
    "yum_repos": named(_YUM),
    "yum_repo_dir": TEXT,
    "snap": keyed(
        {
            "assertions": _TEXTS | named(TEXT),
            "commands": each(_TEXT_OR_TEXTS) | named(_TEXT_OR_TEXTS),
        }
    ),
}

# --- disks

_PARTITION = WHOLE | each(WHOLE | TEXT, 2, 2)
_BYTES = r"\d*\.?\d+[BKMGT]"
_DISKS: dict[str, Shape] = {
    "growpart": keyed(
        {
            "mode": word("auto", "growpart", "gpart", "off") | BOOLEAN,
            "devices": _TEXTS,
            "ignore_growroot_disabled": BOOLEAN,
        }
    ),
    "resize_rootfs": BOOLEAN | word("noblock"),
    "device_aliases": named(TEXT),
    "disk_setup": named(
        keyed(
            {
                "table_type": word("mbr", "gpt"),
                "layout": BOOLEAN | word("remove") | each(_PARTITION),
                "overwrite": BOOLEAN,
            }
        )
    ),
    "fs_setup": each(
        keyed(
            {
                **_all(TEXT, "label", "filesystem", "device", "replace_fs"),
                **_all(_TEXT_OR_TEXTS, "extra_opts", "cmd"),
                "partition": TEXT | WHOLE,
                "overwrite": BOOLEAN,
            }
        )
    ),
    "mounts": each(each(TEXT | WHOLE | NOTHING, 1, 6)),
    "mount_default_fields": each(TEXT | WHOLE | NOTHING, 6, 6),
    "swap": keyed(
        {
            "filename": TEXT,
            "size": WHOLE | form(f"auto|{_BYTES}", "a size such as 512M, or auto"),
            "maxsize": WHOLE | form(_BYTES, "a size such as 512M"),
        }
    ),
}

# --- the machine

_CLOCK = keyed(
    {
        **_all(_TEXTS, "pools", "servers", "peers", "allow"),
        "ntp_client": TEXT,
        "enabled": BOOLEAN,
        "config": keyed(
            {
                **_all(TEXT, "confpath", "check_exe", "service_name", "template"),
                "packages": _TEXTS,
            }
        ),
    }
)
_CALL = keyed(
    {
        "url": TEXT,
        "post": word("all")
        | each(
            word(
                *("pub_key_dsa", "pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519"),
                *("instance_id", "hostname", "fqdn"),
            )
        ),
        "tries": WHOLE,
    },
    "url",
)
_POWER = keyed(
    {
        "mode": word("poweroff", "reboot", "halt"),
        "delay": WHOLE | form(r"now|\+?\d+", "minutes such as +5, or now"),
        "message": TEXT,
        "timeout": WHOLE,
        "condition": TEXT | BOOLEAN | LIST,
    },
    "mode",
)
_STREAM = TEXT | each(TEXT, 2, 2) | keyed(_all(TEXT, "output", "error"))
_LOG = keyed(
    {
        **_all(TEXT, "config_dir", "config_filename", "check_exe"),
        "configs": each(TEXT | keyed(_all(TEXT, "content", "filename"), "content")),
        "remotes": MAPPING,
        "service_reload_command": word("auto") | _TEXTS,
        "install_rsyslog": BOOLEAN,
        "packages": _TEXTS,
    }
)
_MACHINE: dict[str, Shape] = {
    **_all(TEXT, "hostname", "fqdn", "timezone", "locale_configfile", "final_message"),
    **_all(BOOLEAN, "preserve_hostname", "prefer_fqdn_over_hostname", "create_hostname_file"),
    **_all(BOOLEAN, "manage_resolv_conf", "disable_ec2_metadata", "migrate"),
    **_all(BOOLEAN, "disable_piwiz", "enable_rpi_connect"),
    "manage_etc_hosts": BOOLEAN | word("localhost", "template"),
    "locale": BOOLEAN | TEXT,
    "keyboard": keyed(_all(TEXT, "layout", "model", "variant", "options"), "layout"),
    "ntp": _CLOCK | NOTHING,
    "phone_home": _CALL,
    "power_state": _POWER,
    "output": keyed(_all(_STREAM, "all", "init", "config", "final")),
    "reporting": named(keyed({"type": word("log", "print", "webhook", "hyperv")}, others=ANY)),
    "resolv_conf": keyed(
        {
            **_all(_TEXTS, "nameservers", "searchdomains", "sortlist"),
            "domain": TEXT,
            "options": MAPPING,
        }
    ),
    "rsyslog": _LOG,
    "byobu_by_default": word(
        *("enable-system", "enable-user", "disable-system", "disable-user"),
        *("enable", "disable", "user", "system"),
    ),
}

# --- cloud-init itself

_MERGERS = TEXT | each(keyed({"name": word("list", "dict", "str"), "settings": _TEXTS}, "name"))
_ITSELF: dict[str, Shape] = {
    **_all(_MERGERS, "merge_how", "merge_type"),
    **_all(each(TEXT | LIST), "cloud_init_modules", "cloud_config_modules", "cloud_final_modules"),
    "launch-index": WHOLE,
    "version": ANY,
}

_OF_TOOLS: dict[str, Shape] = {
    **_all(MAPPING, "ansible", "apk_repos", "autoinstall", "chef", "drivers", "fan", "landscape"),
    **_all(MAPPING, "lxd", "mcollective", "puppet", "rh_subscription", "salt_minion", "spacewalk"),
    **_all(MAPPING, "grub_dpkg", "grub-dpkg", "rpi_interfaces", "rpi_userconf", "system_info"),
    **_all(MAPPING, "ubuntu_advantage", "ubuntu_pro", "updates", "zypper"),
    "wireguard": MAPPING | NOTHING,
}

KEYS: Mapping[str, Shape] = {
    **_USERS,
    **_SSH,
    **_FILES,
    **_PACKAGES,
    **_DISKS,
    **_MACHINE,
    **_ITSELF,
    **_OF_TOOLS,
}
_DOCUMENT = keyed(KEYS)


def problems(document: Mapping[Any, Any], path: str) -> Iterator[Problem]:
    """Yield what a cloud-config at a path has against the table."""
    return shape.problems(_DOCUMENT, document, path)


# --- as text


class _Place(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


def is_cloud_config(text: str) -> bool:
    """Return whether cloud-init takes a text for one cloud-config, by its beginning."""
    head = text[: len(_OTHER_HEADS[0])].lower()
    return head.startswith(_HEAD) and not head.startswith(_OTHER_HEADS)


def problems_of_text(text: str, path: str) -> Iterator[Problem]:
    """Yield what a text at a path has against the table, if it is a cloud-config."""
    if not is_cloud_config(text):
        return
    try:
        import yaml
    except ImportError:  # hosts need no PyYAML
        line = _tabbed(text)
        if line is not None:
            yield _not_yaml(path, f"a tab in the indentation of line {line}")
        return
    try:
        document, twice = _loaded(yaml, text)
    except yaml.YAMLError as error:
        yield _not_yaml(path, _said(error, text))
        return
    # What PyYAML makes of values that are not of the type that they are tagged as, or look like.
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError):
        yield _not_yaml(path, "a value that cannot be read")
        return
    for key, place in twice:
        yield Problem(path, "each key once in a mapping", f"{key} again in {place}")
    if not isinstance(document, Mapping):
        yield Problem(path, "a mapping below #cloud-config", shape.kind(document))
        return
    yield from problems(document, path)


def _not_yaml(path: str, found: str) -> Problem:
    return Problem(path, "YAML", found)


def _loaded(yaml: Any, text: str) -> tuple[Any, list[tuple[str, _Place]]]:
    """Return the document, and each key that a mapping in it has once more, with its place."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, []
        twice = list(_twice(node, set()))
        return loader.construct_document(node), twice
    finally:
        loader.dispose()


def _twice(node: Any, met: set[int]) -> Iterator[tuple[str, _Place]]:
    if id(node) in met or node.id == "scalar":  # an alias is the node that it stands for
        return
    met.add(id(node))
    if node.id == "sequence":
        for one in node.value:
            yield from _twice(one, met)
        return
    names = set()
    for key, value in node.value:
        if key.id == "scalar" and key.value != "<<":
            if key.value in names:
                mark = key.start_mark
                name = key.value if shape.plain(key.value) else "a key"
                yield name, _Place(mark.line + 1, mark.column + 1)
            names.add(key.value)
        yield from _twice(value, met)


def _said(error: Any, text: str) -> str:
    """Return in words what PyYAML has against a text, without what it quotes of it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # of a character that may not stand in YAML
        position = getattr(error, "position", None)
        if not isinstance(position, int):
            return "an error"
        before = text[:position]
        place = _Place(before.count("\n") + 1, position - before.rfind("\n"))
        return f"a character in {place} that may not stand there"
    place = _Place(mark.line + 1, mark.column + 1)
    if text[mark.index : mark.index + 1] == "\t":
        return f"a tab in {place}, where only spaces may stand"
    # Single characters and names of tokens may be told; from any other quotation on nothing is.
    words = re.sub(r"'([^\w'\"]|<[a-z ]+>)'", r"\1", error.problem or "")
    told = re.sub(r",? but (?:found|got)$", "", re.split(r"['\"]", words)[0].rstrip())
    return f"an error in {place}: {told}" if told else f"an error in {place}"


def _tabbed(text: str) -> int | None:
    """Return the first line that is indented by a tab, outside of a block of text."""
    block: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        inside = line.lstrip(" ")
        indented = len(line) - len(inside)
        if not inside.strip() or (block is not None and indented > block):
            continue
        block = None
        if re.match(r"\t\s*(?:- |[\w-]+:(?:\s|$))", inside):
            return number
        if re.search(r"(?:^|[\s:-])[|>][-+0-9]*\s*(?:#.*)?$", line):
            block = indented
    return None
