# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Short names: those that are built in, and those that a site lays over them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.image.catalogue import CATALOGUE, KEYS, completed
from ansible.module_utils.image.spec import FORMATS, catalogue_with, read

DIGEST = "sha256:" + "0" * 64
MYOS: dict[Any, Any] = {"url": "https://images.example.org/myos.qcow2", "checksum": DIGEST}


def told(catalogue, *entries):
    with pytest.raises(InputError) as raised:
        read(entries, catalogue)
    return [str(problem) for problem in raised.value.problems]


@pytest.fixture
def site(publisher, image):
    """Return a catalogue of what a publisher has: one in the place of a built-in one, one more."""
    for path, content in {"/myos.qcow2": image(), "/own.raw": image("1M", "raw")}.items():
        publisher.files[path] = content
    digest = hashlib.sha512(image()).hexdigest()
    publisher.files["/SUMS"] = f"{digest}  myos.qcow2\n".encode()
    return {
        "debian-12": {
            "url": f"{publisher.url}/myos.qcow2",
            "checksums": f"{publisher.url}/SUMS",
        },
        "own": {
            "url": f"{publisher.url}/own.raw",
            "checksum": hashlib.sha256(image("1M", "raw")).hexdigest(),
            "format": "raw",
        },
    }


def test_a_short_name_of_the_site_is_found(images, site, publisher, image, store):
    entries = [{"name": "debian-12"}, {"name": "own"}]
    planned = images(*entries, catalogue=site, check_mode=True)
    assert publisher.asked == []
    done = images(*entries, catalogue=site)
    assert planned["actions"] == done["actions"]
    assert [(one["name"], one["format"]) for one in done["images"]] == [
        ("debian-12", "qcow2"),
        ("own", "raw"),
    ]
    assert (store / "debian-12").read_bytes() == image()
    assert (store / "own").read_bytes() == image("1M", "raw")
    assert images(*entries, catalogue=site)["changed"] is False


def test_what_the_catalogue_says_of_an_image_is_followed(images, site, publisher, image, store):
    images({"name": "own"}, catalogue=site)
    publisher.files["/own.raw"] = image("2M", "raw")
    site["own"]["checksum"] = hashlib.sha256(image("2M", "raw")).hexdigest()
    done = images({"name": "own"}, catalogue=site)
    assert [action["action"] for action in done["actions"]] == ["update"]
    assert (store / "own").stat().st_size == 2 << 20


@pytest.mark.parametrize("given", [None, {}])
def test_without_one_of_the_site_it_is_the_built_in_one(given):
    assert catalogue_with(given) == CATALOGUE
    (one,) = read([{"name": "alma-9"}], given)
    assert (one.url, one.checksums) == (
        CATALOGUE["alma-9"]["url"],
        CATALOGUE["alma-9"]["checksums"],
    )


def test_one_of_the_site_takes_the_place_of_a_built_in_one_as_a_whole():
    (one, other) = read([{"name": "debian-12"}, {"name": "debian-13"}], {"debian-12": MYOS})
    assert (one.url, str(one.checksum), one.checksums) == (MYOS["url"], DIGEST, None)
    assert other.url == CATALOGUE["debian-13"]["url"]
    assert "debian-12" in CATALOGUE
    assert CATALOGUE["debian-12"]["url"].startswith("https://cloud.debian.org/")


def test_what_an_image_states_itself_comes_first():
    catalogue = {
        "a": {**MYOS, "format": "raw"},
        "b": {
            "url": "https://a/b",
            "checksums": "https://a/c",
            "signature": "https://a/d",
            "keyring": "/k",
        },
    }
    entries = [
        {"name": "a", "format": "qcow2", "checksums": "https://a/sums"},
        {"name": "b", "checksum": DIGEST},
    ]
    first, second = read(entries, catalogue)
    assert (first.format, first.checksum, first.checksums) == ("qcow2", None, "https://a/sums")
    assert (second.checksums, second.signature, second.keyring) == (None, None, None)
    (own,) = read([{"name": "a", "path": "/a.qcow2"}], catalogue)
    assert (own.url, own.format, own.checksum) == (None, "qcow2", None)
    (signed,) = read([{"name": "b"}], catalogue)
    assert (signed.signature, signed.keyring) == ("https://a/d", "/k")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("x", "myos: expected a mapping (url, checksum"),
        (None, "myos: expected a mapping (url, checksum"),
        ({}, "myos.url: expected an http or https address, found nothing"),
        ({**MYOS, "url": "ftp://a/b"}, "myos.url: expected an http or https address, found 'ftp"),
        ({**MYOS, "url": 5}, "myos.url: expected an http or https address, found 5"),
        ({**MYOS, "url": "https://u:p@a/b"}, "myos.url: expected no password in it, found one"),
        ({**MYOS, "checksum": "abc"}, "myos.checksum: expected sha256: or sha512: and the digits"),
        ({"url": MYOS["url"]}, "myos.checksum: expected a checksum, or the address of the"),
        ({**MYOS, "checksums": "https://a"}, "myos.checksums: expected nothing beside a checksum"),
        ({**MYOS, "format": "vmdk"}, "myos.format: expected a format (qcow2, raw), found 'vmdk'"),
        ({**MYOS, "path": "/a"}, "myos.path: expected a known key (url, "),
        ({**MYOS, "state": "absent"}, "myos.state: expected a known key (url, "),
        ({**MYOS, 5: 6}, "myos.5: expected a known key (url, "),
        (
            {"url": MYOS["url"], "checksums": "https://a/b", "keyring": "/k"},
            "myos.signature: expected signature and keyring together, found one of them",
        ),
        (
            {
                "url": MYOS["url"],
                "checksums": "https://a/b",
                "signature": "https://a/c",
                "keyring": "k",
            },
            "myos.keyring: expected an absolute path, found 'k'",
        ),
    ],
)
def test_what_is_wrong_with_a_catalogue_is_told_with_its_path(entry, expected):
    # At its own path alone, whether an image of that name is declared or not.
    for entries in ([], [{"name": "myos"}]):
        problems = told({"myos": entry}, *entries)
        assert any(problem.startswith(f"catalogue.{expected}") for problem in problems)
        assert all(problem.startswith("catalogue.myos") for problem in problems)


@pytest.mark.parametrize(
    ("catalogue", "expected"),
    [
        ("x", "catalogue: expected a mapping of images by their short names, found 'x'"),
        ([MYOS], "catalogue: expected a mapping of images"),
        ({"My OS": MYOS}, "catalogue.My OS: expected a name (1 to 63"),
        ({12: MYOS}, "catalogue.12: expected a name (1 to 63"),
        ({"a\nb": MYOS}, r"catalogue.'a\nb': expected a name"),
    ],
)
def test_what_is_no_catalogue_is_told(catalogue, expected):
    (problem,) = told(catalogue)
    assert problem.startswith(expected)


def test_all_that_is_wrong_is_told_before_anything_is_done(images, site, publisher, store):
    site["bad"] = {"url": "nowhere", "checksum": DIGEST}
    with pytest.raises(InputError) as raised:
        images({"name": "own"}, {"name": "bad"}, {"name": "onw"}, catalogue=site)
    paths = [problem.path for problem in raised.value.problems]
    assert paths == ["catalogue.bad.url", "images[2]"]
    assert "rocky-9, own, bad)" in str(raised.value)
    assert publisher.asked == []
    assert not store.exists()


def test_a_built_in_entry_is_one_that_a_site_could_lay_over_it():
    assert catalogue_with(CATALOGUE) == CATALOGUE
    assert all(set(entry) <= set(KEYS) for entry in CATALOGUE.values())
    assert {entry.get("format", "qcow2") for entry in CATALOGUE.values()} <= set(FORMATS)


@pytest.mark.parametrize("name", [None, 5, ["a"], "nobody"])
def test_an_entry_that_the_catalogue_does_not_have_stays_as_it_is(name):
    assert completed({"name": name, "format": "raw"}, CATALOGUE) == {"name": name, "format": "raw"}
