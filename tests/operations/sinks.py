"""Where alerts arrive in tests: a mail server and a web server on this machine that keep what they get."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class MailSink:
    """A mail server: `mails` holds (sender, recipients, text)."""

    port: int = 0
    mails: list[tuple[str, list[str], str]] = field(default_factory=list)
    refuse: bool = False


@contextmanager
def mail_sink() -> Iterator[MailSink]:
    sink = MailSink()

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            sender, recipients = "", []
            self.say("220 sink")
            while line := self.rfile.readline():
                word = line.decode().strip()
                command = word.upper()
                if command.startswith(("EHLO", "HELO", "RSET", "NOOP")):
                    self.say("250 sink")
                elif command.startswith("MAIL FROM:"):
                    sender = word[10:].split(">")[0].strip("<> ")
                    self.say("550 no" if sink.refuse else "250 ok")
                elif command.startswith("RCPT TO:"):
                    recipients.append(word[8:].split(">")[0].strip("<> "))
                    self.say("250 ok")
                elif command == "DATA":
                    self.say("354 go on")
                    text = b""
                    while (line := self.rfile.readline()) not in (b".\r\n", b""):
                        text += line
                    sink.mails.append((sender, list(recipients), text.decode()))
                    self.say("250 taken")
                elif command == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("502 no")

        def say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)) as port:
        sink.port = port
        yield sink


@dataclass
class WebSink:
    """A web server: `got` holds (method, path, body)."""

    url: str = ""
    got: list[tuple[str, str, str]] = field(default_factory=list)
    status: int = 200


@contextmanager
def web_sink() -> Iterator[WebSink]:
    sink = WebSink()

    class Session(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            sink.got.append((self.command, self.path, body))
            self.send_response(sink.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Session)) as port:
        sink.url = f"http://127.0.0.1:{port}"
        yield sink


@contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
