"""HTTP itself, the request log, and the simulator in a process of its own."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from itertools import pairwise

import pytest

from clinical_conductor.simulator import Simulator, SimulatorProcess
from tests.simulator.reading import get, listed

HEADERS = {"X-ApiKey": "demo-key"}


def test_sixteen_connections_are_kept_alive_and_do_not_mix_their_answers(simulator: Simulator) -> None:
    wrong: list[object] = []

    def read(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=10)
        key = 500001 + number
        for _ in range(25):
            connection.request("GET", f"/CCSWEB/api/v1/patients/odata?$filter=id%20eq%20{key}", headers=HEADERS)
            body = connection.getresponse().read()
            if not body.startswith(b'[{"id":%d,' % key):
                wrong.append(body[:40])
        connection.close()

    threads = [threading.Thread(target=read, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert len(simulator.log) == 16 * 25


def test_the_log_has_the_times_of_requests_and_no_headers(simulator: Simulator) -> None:
    before = time.monotonic()
    get(simulator, "/studies/odata", top=1)
    get(simulator, "/nothing")
    first, second = simulator.log
    assert before <= first.at <= second.at <= time.monotonic()
    assert (first.method, first.path, first.query, first.status) == (
        "GET",
        "/CCSWEB/api/v1/studies/odata",
        "$top=1",
        200,
    )
    assert second.status == 404
    assert "demo-key" not in repr(simulator.log)


def test_requests_in_pieces_and_several_at_once(simulator: Simulator) -> None:
    request = b"GET /CCSWEB/api/v1/study-types HTTP/1.1\r\nHost: x\r\nX-APIKEY: demo-key\r\n\r\n"
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
        connection.sendall(request[:20])
        connection.sendall(request[20:] + request + request.replace(b"Host", b"Connection: close\r\nHost"))
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_it_may_limit_the_rate(simulator_factory) -> None:
    simulator = simulator_factory(rate_limit=3)
    answers = [get(simulator, "/study-types") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_read_only(simulator: Simulator, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=5)
    connection.request(method, "/CCSWEB/api/v1/studies", body=b"{}", headers=HEADERS)
    assert connection.getresponse().status == 405
    connection.close()


def test_closing_frees_the_port_and_ends_connections() -> None:
    with Simulator(0.0001) as simulator:
        connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=5)
        connection.request("GET", "/CCSWEB/api/v1/studies", headers=HEADERS)
        connection.getresponse().read()
    assert connection.sock.recv(1) == b"", "the server closed it"
    connection.close()
    with Simulator(0.0001, port=simulator.port) as again:
        assert get(again, "/studies").status_code == 200


def test_a_process_of_its_own_is_steered_over_http() -> None:
    with Simulator(0.0001) as here, SimulatorProcess(0.0001) as there:
        assert list(there.truth("patients")) == list(here.truth("patients"))
        there.advance(2, change=0.1)
        here.advance(2, change=0.1)
        assert list(there.truth("visit_elements")) == list(here.truth("visit_elements"))

        there.edit("patients", "", "500002", firstName="Changed")
        new = there.insert("patients", firstName="New")
        there.delete("patients", "", "500003")
        there.control("replace_raw", resource="patients", parent="", key="500004", raw='{"id":500004,"x":"\\u0000"}')
        patients = {str(p["id"]): p for p in listed(there, "/patients/odata", top=1000)}
        assert (patients["500002"]["firstName"], patients[new]["firstName"]) == ("Changed", "New")
        assert "500003" not in patients
        assert patients["500004"] == {"id": 500004, "x": "\0"}

        there.fault("error", status=503, count=1)
        assert [get(there, "/studies").status_code for _ in range(2)] == [503, 200]
        log = there.log()
        assert [status for *_, status in log] == [200, 503, 200]
        assert all(a[0] <= b[0] for a, b in pairwise(log))
        there.clear()
        assert there.log() == []
        with pytest.raises(ValueError, match="no fault"):
            there.fault("nothing")
        with pytest.raises(ValueError, match="KeyError"):
            there.edit("patients", "", "1", firstName="nobody")


def test_the_process_ends_with_the_one_that_started_it() -> None:
    process = SimulatorProcess(0.0001)
    try:
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert process._process.wait(10) == 0
    finally:
        process.close()
