"""A small HTTP/1.1 server: one thread per connection, keep-alive, nothing that the simulator does not need."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from clinical_conductor.simulator.api import Answer, Request

_MAX_HEAD = 65_536


class Server:
    """Serves `respond` on 127.0.0.1; port 0 takes any free one."""

    def __init__(self, respond: Callable[[Request, bytes], Answer], date: Callable[[], str], port: int = 0) -> None:
        self._respond = respond
        self._date = date
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="simulator", daemon=True)

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close what is open."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                pending = b""
                while not self._closing:
                    request, body, pending = _read(connection, pending)
                    if request is None:
                        return
                    answer = self._respond(request, body)
                    if not self._send(connection, request, answer):
                        return
        finally:
            self._connections.discard(connection)
            connection.close()

    def _send(self, connection: socket.socket, request: Request, answer: Answer) -> bool:
        """Write an answer; whether the connection may be used again."""
        if answer.delay:
            time.sleep(answer.delay)
        body = b"".join(answer.body)
        keep = request.headers.get("connection", "").lower() != "close"
        head = {"Content-Type": answer.content_type, "Content-Length": str(len(body)), "Date": self._date()}
        head |= answer.headers
        if not keep:
            head["Connection"] = "close"
        reason = HTTPStatus(answer.status).phrase
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        start = f"HTTP/1.1 {answer.status} {reason}\r\n{lines}\r\n".encode("latin-1")
        if request.method == "HEAD":
            body = b""
        if answer.cut_at is not None:
            connection.sendall(start + body[: int(len(body) * answer.cut_at)])
            # Linger 0 makes the close a reset, which is what a broken network looks like.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if answer.pace:
            pause, pieces = answer.pace
            size = max(1, -(-len(body) // pieces))
            connection.sendall(start)
            for at in range(0, len(body), size):
                time.sleep(pause)
                connection.sendall(body[at : at + size])
        elif len(body) < _MAX_HEAD:
            connection.sendall(start + body)
        else:
            connection.sendall(start)
            connection.sendall(body)
        return keep


def _read(connection: socket.socket, pending: bytes) -> tuple[Request | None, bytes, bytes]:
    """The next request, its body, and what of the following one came along."""
    while b"\r\n\r\n" not in pending:
        data = connection.recv(65_536)
        if not data or len(pending) > _MAX_HEAD:
            return None, b"", b""
        pending += data
    head, _, pending = pending.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3:
        return None, b"", b""
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "0") or 0)
    while len(pending) < length:
        data = connection.recv(65_536)
        if not data:
            return None, b"", b""
        pending += data
    path, _, query = parts[1].partition("?")
    if path.startswith("http://"):  # the absolute form, as through a proxy
        path = "/" + path.split("/", 3)[3]
    request = Request(parts[0], path, query, headers, host=headers.get("host", "127.0.0.1"))
    return request, pending[:length], pending[length:]
