"""SimulatorProcess: the simulator in a process of its own, which does not share an interpreter with its reader."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import TracebackType
from typing import Any


class SimulatorProcess:
    """`python -m clinical_conductor.simulator` as a child, steered over HTTP. It ends with its parent, however it ends.

    Args:
        scale: see Simulator.
        seed: see Simulator.
        port: 0 for any free one.
        switches: see Simulator.

    Raises:
        RuntimeError: the child did not start.
    """

    def __init__(self, scale: float = 0.001, seed: int = 1, port: int = 0, **switches: Any) -> None:
        settings = json.dumps({"scale": scale, "seed": seed, "port": port, **switches})
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "clinical_conductor.simulator", "--settings", settings, "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.base_url: str = self._process.stdout.readline().strip() if self._process.stdout else ""
        self.api_key: str = switches.get("api_key", "demo-key")
        if not self.base_url:
            self.close()
            raise RuntimeError("The simulator did not start; its own message stands above.")

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def __enter__(self) -> SimulatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        self._process.terminate()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def advance(self, days: int = 1, change: float = 0.01) -> None:
        """Let days pass."""
        self.control("advance", days=days, change=change)

    def edit(self, resource: str, parent: str, key: str, **fields: Any) -> None:
        """Change fields of one record."""
        self.control("edit", resource=resource, parent=parent, key=key, **fields)

    def insert(self, resource: str, parent: str = "", **fields: Any) -> str:
        """Add a record and return its id."""
        return str(self.control("insert", resource=resource, parent=parent, **fields))

    def delete(self, resource: str, parent: str, key: str) -> None:
        """Remove a record and everything below it."""
        self.control("delete", resource=resource, parent=parent, key=key)

    def fault(self, kind: str, **options: Any) -> None:
        """Inject a fault by name."""
        self.control("fault", kind=kind, **options)

    def clear(self) -> None:
        """Remove all faults and empty the log."""
        self.control("clear")

    def control(self, name: str, **arguments: Any) -> Any:
        """Call one of the simulator's handles.

        Raises:
            ValueError: the simulator refused the arguments.
        """
        return json.loads(self._open(name, json.dumps(arguments).encode()))

    def log(self) -> list[tuple[float, str, str, str, int]]:
        """(monotonic time, method, path, query, status) of every request so far."""
        return [tuple(line) for line in json.loads(self._open("log"))]

    def truth(self, resource: str) -> Iterator[tuple[str, bytes]]:
        """(parent_source_id, record) of all that is served for a resource now."""
        for line in self._open(f"truth/{resource}").split(b"\n"):
            if line:
                parent, _, record = line.partition(b"\t")
                yield parent.decode(), record

    def _open(self, name: str, body: bytes | None = None) -> bytes:
        url = self.base_url.rsplit("/", 1)[0] + f"/_simulator/{name}"
        try:
            with urllib.request.urlopen(url, body, timeout=60) as answer:  # noqa: S310 - always http://127.0.0.1
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise ValueError(f"The simulator refused {name!r}: {error.read().decode(errors='replace')}") from None
