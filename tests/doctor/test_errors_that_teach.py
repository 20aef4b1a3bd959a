"""The mistakes of the first hour, each made against the simulator: the message names what to change."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clinical_conductor import ClinicalConductorClient, cli, client, sample
from clinical_conductor.errors import (
    ConfigurationError,
    ConnectionTrouble,
    EndpointNotFound,
    TrialSyncError,
    Unauthorised,
    UnreadableAnswer,
)
from clinical_conductor.simulator import Simulator

KEY = "demo-key"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of nobody's, and no waiting between retries."""
    monkeypatch.chdir(tmp_path)
    for name in ("CC_API_BASE_URL", "CC_API_KEY", "CC_API_KEY_HEADER", "DATABASE_URL", "DATABASE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETL_RETRY_DELAY_SECONDS", "0.001")
    monkeypatch.setenv("CC_API_RATE_LIMIT", "0")


@pytest.fixture
def plain_server() -> Iterator[int]:
    """The port of a server that answers every connection in plain http, whatever it is sent."""
    page = b"<html>Blocked by policy</html>"
    head = (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        % len(page)
    )

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with closing(connection):
                connection.recv(65_536)
                connection.sendall(head + page)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def said(kind: type[TrialSyncError], base_url: str, key: str = KEY) -> str:
    """What an error of this kind says to somebody who reads one endpoint."""
    with pytest.raises(kind) as caught:
        ClinicalConductorClient(base_url, key).get_odata("/api/v1/studies/odata")
    assert key not in str(caught.value)
    return str(caught.value)


def test_the_wrong_header_names_the_other_one(simulator_factory: Callable[..., Simulator]) -> None:
    upstream = simulator_factory(key_header="CCAPIKey")
    text = said(Unauthorised, upstream.base_url)
    assert "401 to the key in the header X-ApiKey" in text
    assert "CC_API_KEY_HEADER=CCAPIKey" in text
    with pytest.raises(Unauthorised, match="CC_API_KEY_HEADER=CCAPIKey"):
        sample("sites", 1, base_url=upstream.base_url, api_key=KEY)
    assert sample("sites", 1, base_url=upstream.base_url, api_key=KEY, api_key_header="CCAPIKey")


def test_a_wrong_key_points_at_the_key(simulator: Simulator) -> None:
    assert "Check CC_API_KEY" in said(Unauthorised, simulator.base_url, "mistyped")


def test_a_right_that_is_missing_points_at_the_rights(simulator: Simulator) -> None:
    simulator.fault("error", status=403)
    assert "Check CC_API_KEY and its rights" in said(Unauthorised, simulator.base_url)


def test_http_to_another_machine_is_refused_before_the_key_is_sent() -> None:
    text = said(ConfigurationError, "http://ccs.example.com/CCSWEB")
    assert "would travel in the clear. Use https." in text


def test_https_where_only_http_is_spoken_is_told_apart_from_a_broken_network(plain_server: int) -> None:
    text = said(ConnectionTrouble, f"https://127.0.0.1:{plain_server}/CCSWEB")
    assert "Does the address in CC_API_BASE_URL really speak https" in text


def test_https_where_a_server_waits_for_more_is_no_slow_answer(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.2)
    with pytest.raises(ConnectionTrouble, match="really speak https"):
        ClinicalConductorClient(simulator.base_url.replace("http:", "https:"), KEY, max_retries=0).get("sites")


def test_a_base_url_without_its_path_says_which_path(simulator: Simulator) -> None:
    text = said(EndpointNotFound, simulator.base_url.removesuffix("/CCSWEB"))
    assert "CC_API_BASE_URL lacks its path, such as /CCSWEB" in text


def test_a_proxys_page_with_200_is_called_what_it_is(simulator: Simulator) -> None:
    simulator.fault("html")
    text = said(UnreadableAnswer, simulator.base_url)
    assert "a web page instead of JSON, as a proxy or a login page does" in text
    assert "session has expired" not in text


def test_a_proxys_page_with_403_is_not_blamed_on_the_key_alone(plain_server: int) -> None:
    text = said(Unauthorised, f"http://127.0.0.1:{plain_server}/CCSWEB")
    assert "perhaps from a proxy and not from the instance" in text
    assert "Blocked by policy" not in text


def test_nothing_configured_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="CC_API_BASE_URL is not set: it should look like"):
        sample("sites", 1)
    with pytest.raises(ConfigurationError, match="CC_API_KEY is not set"):
        sample("sites", 1, base_url="https://ccs.example.com/CCSWEB")
    with pytest.raises(ConfigurationError, match="Did you mean 'sites'"):
        sample("sitez")


def test_the_command_line_says_the_same(
    simulator_factory: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = simulator_factory(key_header="CCAPIKey")
    monkeypatch.setenv("CC_API_BASE_URL", upstream.base_url)
    monkeypatch.setenv("CC_API_KEY", KEY)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "--resources", "sites"])
    assert end.value.code == 1
    assert "set CC_API_KEY_HEADER=CCAPIKey" in capsys.readouterr().out
    monkeypatch.setenv("CC_API_BASE_URL", "http://ccs.example.com/CCSWEB")
    assert cli.main(["doctor"]) == 2
    assert "Use https" in " ".join(capsys.readouterr().err.split())
