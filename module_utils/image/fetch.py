# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files fetched over http and https: continued where they broke off, never believed by themselves.

What is fetched is a name with ``.part`` until somebody has verified it. A server that stops in the
middle is asked for the rest; if what it has is another file by then (RFC 9110, If-Range), or if it
cannot send a part, the file begins anew.
"""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import IO, Any

from ..converge.errors import VirtfleetError, system_says
from ..units import format_size

TIMEOUT = 30.0  # seconds in which a server has to say something
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one
_CHUNK = 1 << 20
_MOST_TEXT = 4 << 20  # bytes of a file of checksums or a signature
_NOTHING_LEFT = 416  # RFC 9110, 15.5.17
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OWN = (*_FULL, errno.EROFS, errno.EACCES, errno.EIO)  # of our file system
_SPARE = 64 << 20  # bytes that a file system keeps


class FetchError(VirtfleetError):
    """A file that could not be fetched; what came of it stays, to be continued."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http, and to another host only where it may."""

    def __init__(self, *, elsewhere: bool) -> None:
        self.elsewhere = elsewhere

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Return the request to follow with; FetchError where it must not be followed."""
        problem = self._problem(req.full_url, newurl)
        if problem is not None:
            fp.close()
            raise problem
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def _problem(self, url: str, newurl: str) -> FetchError | None:
        old, new = urllib.parse.urlsplit(url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            return FetchError(f"{url} leads to {newurl}: expected https to stay https")
        if not self.elsewhere and new.hostname != old.hostname:
            return FetchError(
                f"{url} leads to another host, {new.hostname}",
                remedy="state the address there, if you trust it: checksums are believed as they"
                " come",
            )
        return None


def _open(url: str, headers: dict[str, str], *, elsewhere: bool) -> Any:
    opener = urllib.request.build_opener(_Redirects(elsewhere=elsewhere))
    agent = {"User-Agent": "virtfleet"}
    request = urllib.request.Request(url, headers={**agent, **headers})  # noqa: S310 (http, https)
    return opener.open(request, timeout=TIMEOUT)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answers {error.code} {error.reason}"
    untrusted = _untrusted(error)
    if untrusted is not None:
        return (
            f"its certificate is not trusted ({untrusted.verify_message}): let the machine that"
            " fetches it trust who signed that"
        )
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _untrusted(error: Exception) -> ssl.SSLCertVerificationError | None:
    reason = error.reason if isinstance(error, urllib.error.URLError) else None
    return reason if isinstance(reason, ssl.SSLCertVerificationError) else None


def _for_good(error: Exception) -> bool:
    """Return whether asking again would bring the same answer."""
    if _untrusted(error) is not None:
        return True
    if not isinstance(error, urllib.error.HTTPError):
        return False
    return 400 <= error.code < 500 and error.code not in (408, 429)


def text(url: str) -> str:
    """Return a small file as text; FetchError where it cannot be had, or is on another host."""
    try:
        with _open(url, {}, elsewhere=False) as answer:
            content: bytes = answer.read(_MOST_TEXT + 1)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {_reason(error)}") from error
    if len(content) > _MOST_TEXT:
        raise FetchError(f"{url}: expected at most {format_size(_MOST_TEXT)}, found more")
    return content.decode("utf-8", "replace")


class Download:
    """One file on its way to ``path``; beside it stands which version of it that is."""

    def __init__(self, url: str, path: str) -> None:
        self.url = url
        self.path = path
        self.version_path = f"{path}.version"

    def run(self) -> None:
        """Fetch the file; FetchError where that failed for good, or too often."""
        pause = PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            error = self._attempt()
            if error is None:
                self._forget_version()
                return
            if isinstance(error, urllib.error.HTTPError) and error.code == _NOTHING_LEFT:
                error.close()
                self._forget_version()  # what is here already is no start of it: it begins anew
            elif _for_good(error) or attempt == ATTEMPTS:
                tries = "" if _for_good(error) else f" ({attempt} attempts)"
                raise FetchError(f"{self.url}: {_reason(error)}{tries}") from error
            time.sleep(pause)
            pause *= 2

    def _attempt(self) -> Exception | None:
        """Fetch what is left of it; return what the network had against that."""
        try:
            self._once()
        except (OSError, http.client.HTTPException) as error:
            # TLS counts its errors by numbers of its own.
            if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
                return error
            if error.errno in _FULL:
                self._forget()  # guests stand on this file system too, and stop where it is full
                raise FetchError(
                    f"{self.url}: {os.path.dirname(self.path)}: {system_says(error)}",
                    remedy="make room there; what had come of it was removed",
                ) from error
            if error.errno in _OWN:
                raise
            return error
        return None

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self._forget_version()

    def _forget_version(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.version_path)

    def _version(self) -> str:
        try:
            with open(self.version_path, encoding="utf-8") as file:
                return file.read().strip()
        except OSError:
            return ""

    def _have(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0

    def _once(self) -> None:
        have, version = self._have(), self._version()
        headers = {}
        if have and version:
            headers = {"Range": f"bytes={have}-", "If-Range": version}
        with _open(self.url, headers, elsewhere=True) as answer:
            continued = answer.status == 206 and self._continues(answer, have)
            if not continued:
                have = 0
                self._forget()  # before the note: it never is of another version than what is there
                self._note(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
            length = answer.headers.get("Content-Length")
            left = int(length) if length is not None and length.isdigit() else None
            self._room(left)
            with open(self.path, "ab" if continued else "wb") as file:
                came = self._copy(answer, file)
        if left is not None and came < left:
            raise http.client.IncompleteRead(b"", left - came)

    @staticmethod
    def _continues(answer: Any, have: int) -> bool:
        found = str(answer.headers.get("Content-Range", ""))
        return found.startswith(f"bytes {have}-")

    def _note(self, version: str) -> None:
        """Write down which version begins; a weak one (RFC 9110, 8.8.1) does not do for parts."""
        with open(self.version_path, "w", encoding="utf-8") as file:
            file.write("" if version.startswith("W/") else version)

    def _room(self, left: int | None) -> None:
        free = shutil.disk_usage(os.path.dirname(self.path)).free
        if left is not None and left > free - _SPARE:
            raise FetchError(
                f"{self.url}: {format_size(left)} are to come, and"
                f" {os.path.dirname(self.path)} has {format_size(free)} left"
            )

    @staticmethod
    def _copy(answer: Any, file: IO[bytes]) -> int:
        came = 0
        while True:
            chunk = answer.read(_CHUNK)
            if not chunk:
                break
            file.write(chunk)
            came += len(chunk)
        file.flush()
        os.fsync(file.fileno())
        return came
