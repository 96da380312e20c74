# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A publisher of images on loopback, which can stop in the middle, lie and lead elsewhere."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl


class Handler(BaseHTTPRequestHandler):
    """Serves what the publisher has."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.publisher.answer(self)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Publisher:
    """Files by path; ``breaks`` are, by path, after how many bytes an answer ends.

    ``holds`` are, by path, after how many bytes the next answer stays silent. It speaks https where
    it has its side of ``tls``.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: dict[str, list[int]] = {}
        self.holds: dict[str, int] = {}
        self.closing = threading.Event()
        self.leads: dict[str, str] = {}
        self.parts = True
        self.asked: list[tuple[str, str | None]] = []
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.publisher = self
        self.scheme = "http"
        if tls is not None:
            self.scheme = "https"
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.server = server
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}"

    def tag(self, content: bytes) -> str:
        return f'"{hashlib.sha256(content).hexdigest()[:8]}"'

    def answer(self, request: Any) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if request.path in self.leads:
            request.send_response(302)
            request.send_header("Location", self.leads[request.path])
            request.end_headers()
            return
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        start, tag = 0, self.tag(content)
        if wanted and self.parts and request.headers.get("If-Range") == tag:
            start = int(wanted[len("bytes=") :].rstrip("-"))
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", tag)
        request.end_headers()
        held = self.holds.pop(request.path, None)
        if held is not None:
            request.wfile.write(content[start : start + held])
            self.closing.wait()
            return
        end = self.breaks.get(request.path, [])
        request.wfile.write(content[start : start + end.pop(0)] if end else content[start:])
        request.close_connection = True

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
