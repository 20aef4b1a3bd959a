"""The connection is lost while PostgreSQL commits the last transaction of a run: the ledger knows, and is asked.

A proxy between the pipeline and PostgreSQL ends the connection either before the COMMIT reaches the server or after it
was done there. The client sees the same in both cases.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clinical_conductor.landing import Landing
from clinical_conductor.simulator import Simulator
from tests.fixtures.pipeline import Pipeline, land_by_copy


class CutAtCommit:
    """A port that leads to PostgreSQL and ends the connection at the COMMIT that closes a run as a success.

    Args:
        target: Host and port of the server.
        done: Whether the server gets the COMMIT, and answers it, before the client loses the connection.
    """

    def __init__(self, target: tuple[str, int], *, done: bool) -> None:
        self.target, self.done = target, done
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            gate = threading.Event()
            gate.set()
            back = threading.Thread(target=self._answer, args=(server, client, gate), daemon=True)
            back.start()
            with suppress(OSError):
                self._pass_on(client, server, gate)
            # A thread that reads from a socket keeps it open, whoever closes it.
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    def _pass_on(self, client: socket.socket, server: socket.socket, gate: threading.Event) -> None:
        """What the client says, up to the COMMIT in question."""
        closing_run = False
        while data := client.recv(1 << 16):
            closing_run = closing_run or (b"run_status = $1" in data and b"success" in data)
            if closing_run and b"COMMIT" in data and not self.cuts:
                self.cuts += 1
                if self.done:
                    gate.clear()
                    server.sendall(data)
                    assert gate.wait(10)
                return
            server.sendall(data)

    @staticmethod
    def _answer(server: socket.socket, client: socket.socket, gate: threading.Event) -> None:
        """Passes answers on; one that comes while the gate is shut is swallowed, and opens it."""
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if not gate.is_set():
                    gate.set()
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


Cut = Callable[..., tuple[Pipeline, CutAtCommit]]


@pytest.fixture
def cut(database: str, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    """Makes a pipeline that reaches its database through the proxy."""
    monkeypatch.setattr(Landing, "land", land_by_copy)
    made: list[CutAtCommit] = []

    def make(*, done: bool, **changes: object) -> tuple[Pipeline, CutAtCommit]:
        parts = urlsplit(database)
        proxy = CutAtCommit((str(parts.hostname), int(parts.port or 5432)), done=done)
        made.append(proxy)
        login = parts.netloc.rpartition("@")[0]
        url = parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl()
        return Pipeline(url, simulator, tmp_path, changes=dict(changes)), proxy

    yield make
    for proxy in made:
        proxy.listener.close()


RESOURCES = ["rooms", "study_arms", "subjects"]  # a listing, a fan-out, a bulk route


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("retries", [0, 2])
def test_a_success_whose_answer_was_lost_is_a_success(
    cut: Cut, simulator: Simulator, resource: str, retries: int
) -> None:
    pipeline, proxy = cut(done=True, max_retries=retries)
    if resource != "rooms":
        pipeline.one("studies")
        proxy.cuts = 0
    asked = len(simulator.log)
    result = pipeline.one(resource)
    assert proxy.cuts == 1
    run = pipeline.ledger(resource)
    assert (run["run_status"], run["error_message"]) == ("success", None)
    assert (result.status, result.error, result.run_id) == ("success", None, run["id"])
    assert pipeline.differences(resource) == {}
    assert result.inserted == run["records_inserted"] == pipeline.count(resource) > 0
    assert result.records_read == run["records_read"] == result.inserted
    assert pipeline.unsound() == []
    paths = [(entry.path, entry.query) for entry in simulator.log[asked:]]
    assert len(set(paths)) == len(paths)  # nothing was read a second time


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_commit_that_never_arrived_is_done_again(cut: Cut, resource: str) -> None:
    pipeline, proxy = cut(done=False, max_retries=2)
    if resource != "rooms":
        proxy.cuts = 1
        pipeline.one("studies")
        proxy.cuts = 0
    result = pipeline.one(resource)
    assert proxy.cuts == 1
    run = pipeline.ledger(resource)
    assert (result.status, run["run_status"]) == ("success", "success")
    assert pipeline.differences(resource) == {}
    assert result.inserted == run["records_inserted"] == pipeline.count(resource) > 0
    assert result.records_read == run["records_read"]
    assert pipeline.unsound() == []


def test_a_commit_that_never_arrived_fails_the_run_when_there_is_no_retry(cut: Cut) -> None:
    pipeline, proxy = cut(done=False, max_retries=0)
    result = pipeline.one("rooms")
    assert proxy.cuts == 1
    run = pipeline.ledger("rooms")
    assert (result.status, result.error_type) == ("failed", "DatabaseTrouble")
    assert (run["run_status"], run["error_type"]) == ("failed", "DatabaseTrouble")
    assert result.records_read == run["records_read"] == pipeline.count("rooms") == 0
    assert pipeline.one("rooms").status == "success"
    assert pipeline.differences("rooms") == {}
