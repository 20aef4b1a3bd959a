"""The HTTP client: what it sends, what it retries, what it says, and how fast it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import requests_mock

from clinical_conductor import client as client_module
from clinical_conductor import pacing
from clinical_conductor.client import Client, encode_query
from clinical_conductor.errors import (
    BadRequest,
    ConfigurationError,
    ConnectionTrouble,
    EndpointNotFound,
    EndpointNotOffered,
    Interrupted,
    RateLimited,
    ReadTimeout,
    ServerTrouble,
    TrialSyncError,
    Unauthorised,
    UnreadableAnswer,
)
from clinical_conductor.odata import ODataPaginator
from clinical_conductor.pacing import Limiter, Tally
from clinical_conductor.settings import Settings

BASE = "https://ccs.example.com/CCSWEB"
PATH = "/api/v1/studies/odata"
URL = BASE + PATH
KEY = "the-key-itself"


def settings(**given: Any) -> Settings:
    values = {"api_base_url": BASE, "api_key": KEY, "api_rate_limit": 0, "retry_delay_seconds": 0.001, **given}
    return Settings(**values)


@pytest.fixture
def api() -> Iterator[requests_mock.Mocker]:
    with requests_mock.Mocker() as mocker:
        yield mocker


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between retries, which then take no time."""
    taken: list[float] = []
    monkeypatch.setattr(client_module, "wait", lambda seconds, stop: taken.append(seconds))
    return taken


def test_the_request(api: requests_mock.Mocker) -> None:
    api.get(URL, json={"value": []}, headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"})
    answer = Client(settings()).fetch(PATH, {"$filter": "id ge 5 and name eq 'a+b'", "$top": 1000, "$skip": None})
    sent = api.request_history[0]
    assert sent.url == f"{URL}?$filter=id%20ge%205%20and%20name%20eq%20'a%2Bb'&$top=1000"
    assert sent.headers["X-ApiKey"] == KEY
    assert answer.path == PATH
    assert answer.server_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert "value" not in repr(answer)


def test_the_environments_proxy_and_certificates_are_used(
    api: requests_mock.Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ours.pem")
    api.get(URL, json=[])
    Client(settings()).fetch(PATH)
    monkeypatch.setenv("NO_PROXY", "ccs.example.com")
    Client(settings()).fetch(PATH)
    through, direct = api.request_history
    assert (through.proxies.get("https"), through.verify) == ("http://proxy.example.com:3128", "/etc/ours.pem")
    assert direct.proxies.get("https") is None


def test_another_key_header_and_any_base_path(api: requests_mock.Mocker) -> None:
    api.get("https://ccs.example.com/a/b/api/v1/x", json=[])
    Client(settings(), base_url="https://ccs.example.com/a/b/", api_key_header="CCAPIKey").fetch("/api/v1/x")
    assert api.request_history[0].headers["CCAPIKey"] == KEY
    assert "X-ApiKey" not in api.request_history[0].headers


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"api_base_url": ""}, "CC_API_BASE_URL is not set"),
        ({"api_key": ""}, "CC_API_KEY is not set"),
        ({"api_key": "line\nbreak"}, "no header can carry"),
        ({"api_key": "clé"}, "no header can carry"),
    ],
)
def test_settings_that_cannot_work(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Client(settings(**given))


def test_http_is_for_this_machine_only() -> None:
    with pytest.raises(ConfigurationError, match="https"):
        Client(settings(), base_url="http://ccs.example.com/CCSWEB")
    Client(settings(), base_url="http://127.0.0.1:1/CCSWEB")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, Unauthorised),
        (403, Unauthorised),
        (404, EndpointNotFound),
        (405, BadRequest),
        (410, EndpointNotFound),
        (422, BadRequest),
        (501, EndpointNotOffered),
    ],
)
def test_what_no_retry_can_cure_fails_at_once(
    api: requests_mock.Mocker, status: int, error: type[TrialSyncError]
) -> None:
    api.get(URL, status_code=status, text=f"patient Jane Doe, X-ApiKey {KEY}")
    with pytest.raises(error) as caught:
        Client(settings()).fetch(PATH, {"$filter": "name eq 'Jane Doe'"})
    assert len(api.request_history) == 1
    assert PATH in str(caught.value)
    assert str(status) in str(caught.value)
    assert "Jane" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_refused_key_names_both_headers(api: requests_mock.Mocker) -> None:
    api.get(URL, status_code=401)
    with pytest.raises(Unauthorised, match=r"X-ApiKey.*CC_API_KEY_HEADER=CCAPIKey"):
        Client(settings()).fetch(PATH)
    with pytest.raises(Unauthorised, match=r"CCAPIKey.*CC_API_KEY_HEADER=X-ApiKey"):
        Client(settings(), api_key_header="CCAPIKey").fetch(PATH)


TRANSIENT: list[tuple[dict[str, Any], type[TrialSyncError]]] = [
    ({"status_code": 429}, RateLimited),
    ({"status_code": 503, "headers": {"Retry-After": "1"}}, RateLimited),
    ({"status_code": 408}, ServerTrouble),
    ({"status_code": 425}, ServerTrouble),
    ({"status_code": 500}, ServerTrouble),
    ({"status_code": 502}, ServerTrouble),
    ({"status_code": 503}, ServerTrouble),
    ({"status_code": 504}, ServerTrouble),
    ({"status_code": 520}, ServerTrouble),
    ({"text": "<html>log in, Jane</html>", "headers": {"Content-Type": "text/html"}}, UnreadableAnswer),
    ({"text": '{"value":[{"id":1}'}, UnreadableAnswer),
    ({"text": ""}, UnreadableAnswer),
    ({"status_code": 206, "json": []}, UnreadableAnswer),
    ({"exc": requests.exceptions.ReadTimeout("Jane")}, ReadTimeout),
    ({"exc": requests.exceptions.ConnectTimeout("Jane")}, ConnectionTrouble),
    ({"exc": requests.exceptions.ConnectionError("Jane")}, ConnectionTrouble),
    ({"exc": requests.exceptions.ProxyError("Jane")}, ConnectionTrouble),
    ({"exc": requests.exceptions.ChunkedEncodingError("Jane")}, ConnectionTrouble),
]


@pytest.mark.parametrize(("answer", "error"), TRANSIENT)
def test_what_a_retry_may_cure(
    api: requests_mock.Mocker, waits: list[float], answer: dict[str, Any], error: type[TrialSyncError]
) -> None:
    api.get(URL, [answer, answer, {"json": []}])
    client = Client(settings())
    assert client.fetch(PATH).body == b"[]"
    assert (client.tally.requests, client.tally.retries) == (3, 2)
    api.get(URL, [answer])
    with pytest.raises(error, match="Asked 4 times") as caught:
        client.fetch(PATH)
    assert "Jane" not in str(caught.value)
    assert client.tally.throttled == (5 if error is RateLimited else 0)


def test_backoff_doubles_and_retry_after_is_honoured(api: requests_mock.Mocker, waits: list[float]) -> None:
    client = Client(settings(retry_delay_seconds=4, max_retries=5))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    api.get(
        URL,
        [
            {"status_code": 500},
            {"status_code": 500},
            {"status_code": 429, "headers": {"Retry-After": "7"}},
            {
                "status_code": 503,
                "headers": {
                    "Date": format_datetime(now, usegmt=True),
                    "Retry-After": format_datetime(now + timedelta(seconds=30), usegmt=True),
                },
            },
            {"status_code": 429, "headers": {"Retry-After": "86400"}},
            {"json": []},
        ],
    )
    client.fetch(PATH)
    for wait, least in zip(waits, (4, 8, 7, 30, 120), strict=True):
        assert least <= wait
    assert waits[0] <= 5
    assert waits[1] <= 10
    assert waits[4] <= 140


@pytest.mark.parametrize("text", ["soon", "nan", ""])
def test_a_retry_after_that_says_nothing(api: requests_mock.Mocker, waits: list[float], text: str) -> None:
    api.get(URL, [{"status_code": 429, "headers": {"Retry-After": text}}, {"json": []}])
    Client(settings(retry_delay_seconds=2)).fetch(PATH)
    assert 2 <= waits[0] <= 2.5


def test_no_content_is_an_empty_list(api: requests_mock.Mocker) -> None:
    api.get(URL, status_code=204)
    assert Client(settings()).fetch(PATH).document.top == []


def test_the_key_is_sent_to_no_other_address(api: requests_mock.Mocker) -> None:
    elsewhere = api.get("https://login.example.com/", json=[])
    for target in ("https://login.example.com/?u=Jane", "http://ccs.example.com/CCSWEB"):
        api.get(URL, status_code=302, headers={"Location": target})
        with pytest.raises(ConfigurationError, match="never sent to another address") as caught:
            Client(settings()).fetch(PATH)
        assert "Jane" not in str(caught.value)
    assert not elsewhere.called
    with pytest.raises(ConfigurationError, match="must not go elsewhere"):
        Client(settings()).get("https://login.example.com/")


def test_a_redirect_within_the_instance_is_followed(api: requests_mock.Mocker) -> None:
    api.get(URL, status_code=301, headers={"Location": "/CCSWEB/api/v2/studies"})
    api.get(f"{BASE}/api/v2/studies", json=[1])
    assert Client(settings()).fetch(PATH).body == b"[1]"
    api.get(URL, status_code=301, headers={"Location": URL})
    with pytest.raises(ConfigurationError, match="in circles"):
        Client(settings()).fetch(PATH)


def test_dlts_own_methods_keep_the_same_promises(api: requests_mock.Mocker, waits: list[float]) -> None:
    rows = [{"id": i} for i in range(25)]

    def serve(request: Any, context: Any) -> Any:
        skip = int(request.qs.get("$skip", ["0"])[0])
        return {"Items": rows[skip : skip + 10], "NextPageLink": None}

    api.get(URL, json=serve)
    client = Client(settings())
    pages = [list(page) for page in client.paginate(PATH, paginator=ODataPaginator(10))]
    assert [row for page in pages for row in page] == rows

    def linked(request: Any, context: Any) -> Any:
        at = int(request.qs.get("$skiptoken", ["0"])[0])
        more = at + 10 < len(rows)
        return {"value": rows[at : at + 10]} | ({"@odata.nextLink": f"odata?$skiptoken={at + 10}"} if more else {})

    api.get(URL, json=linked)
    assert [row for page in client.paginate(PATH, paginator=ODataPaginator(10)) for row in page] == rows
    api.get(URL, json=rows)
    assert [row for page in client.paginate(PATH, paginator=ODataPaginator(10)) for row in page] == rows
    api.get(URL, [{"status_code": 500}, {"json": {"id": 1}}])
    assert client.get(PATH, params={"$filter": "a b"}).json() == {"id": 1}
    assert api.request_history[-1].url.endswith("?$filter=a%20b")


def test_scoped_clients_share_all_but_the_tally(api: requests_mock.Mocker) -> None:
    api.get(URL, json=[])
    client = Client(settings())
    one, two = client.scoped(), client.scoped()
    one.fetch(PATH)
    assert (one.tally.requests, two.tally.requests, client.tally.requests) == (1, 0, 0)
    assert one.session is two.session
    assert one.limiter is two.limiter
    assert sum(one.tally.histogram) == 1


def test_encode_query() -> None:
    assert encode_query({"$count": True, "$filter": "", "a": "ä&b"}) == "$count=true&a=%C3%A4%26b"


# Over a real connection.


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/CCSWEB"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, promise: int | None = None, **headers: str) -> None:
    handler.send_response(200)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body) if promise is None else promise))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_body_that_is_cut_off_is_asked_for_again() -> None:
    seen: list[float] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(time.monotonic())
        if len(seen) < 3:
            send(handler, b'[{"id":1}]', promise=5000)  # complete JSON even, but not the whole body
            handler.close_connection = True
        else:
            send(handler, b'[{"id":1},{"id":2}]')

    with serving(answer) as url:
        client = Client(settings(api_base_url=url))
        assert client.fetch("/x").body == b'[{"id":1},{"id":2}]'
        client.close()
    assert len(seen) == 3


def test_a_server_that_stays_silent() -> None:
    release = threading.Event()
    with serving(lambda handler: release.wait(5) and None) as url:
        client = Client(settings(api_base_url=url, timeout_seconds=0.1, max_retries=1))
        with pytest.raises(ReadTimeout, match="ETL_TIMEOUT_SECONDS"):
            client.fetch("/x")
        release.set()
        client.close()


def test_nobody_there() -> None:
    with serving(lambda handler: None) as url:
        pass
    with pytest.raises(ConnectionTrouble, match="ConnectionRefusedError"):
        Client(settings(api_base_url=url, max_retries=0)).fetch("/x")


def test_connections_are_kept_and_bodies_may_be_compressed() -> None:
    import gzip

    peers = set()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        peers.add(handler.client_address)
        send(handler, gzip.compress(b"[1]"), **{"Content-Encoding": "gzip"})

    with serving(answer) as url:
        client = Client(settings(api_base_url=url))
        for _ in range(5):
            assert client.fetch("/x").body == b"[1]"
        client.close()
    assert len(peers) == 1


def test_a_stop_ends_every_wait() -> None:
    client = Client(settings(retry_delay_seconds=60, api_rate_limit=0.01))
    with requests_mock.Mocker() as api:
        api.get(URL, status_code=500)
        threading.Timer(0.05, client.stop.set).start()
        started = time.monotonic()
        with pytest.raises(Interrupted):
            client.fetch(PATH)
    limiter = Limiter(0.01)
    limiter.acquire()
    with pytest.raises(Interrupted):
        limiter.acquire(client.stop)
    assert time.monotonic() - started < 2


def test_the_pace_seen_from_the_server() -> None:
    arrivals: list[float] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        arrivals.append(time.monotonic())
        time.sleep(0.1)
        send(handler, b"[]")

    with serving(answer) as url:
        client = Client(settings(api_base_url=url, api_rate_limit=40))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: client.fetch("/x"), range(80)))
        client.close()
    # Only what a busy machine cannot spoil: arrivals may bunch on their way, but there are never too many in all.
    assert (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) <= 44
    assert client.tally.requests == 80
    assert client.tally.limiter_wait_seconds == pytest.approx(client.limiter.wait_seconds)


@pytest.mark.parametrize("late", [0.0, 0.03, 0.04, 0.3])
def test_the_pace_on_an_ideal_clock(monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    """Ten a second for 30 s, also when every fourth thread comes late, and never more than twelve in a second."""
    now = [100.0]
    monkeypatch.setattr(pacing.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pacing, "wait", lambda seconds, stop: now.__setitem__(0, now[0] + max(seconds, 0.0)))
    limiter = Limiter(10)
    sent: list[float] = []
    while now[0] < 130.0:
        limiter.acquire()
        sent.append(now[0])
        now[0] += late if len(sent) % 4 == 0 else 0.0
    if late < 0.1:
        assert abs((len(sent) - 1) / (sent[-1] - sent[0]) - 10.0) < 0.05
    assert max(sum(start <= at < start + 1.0 for at in sent) for start in sent) <= 12


def test_a_pause_the_server_asks_for_holds_everybody() -> None:
    limiter = Limiter(1000)
    limiter.acquire()
    limiter.hold(0.2)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limiter.acquire(), range(8)))
    assert 0.19 <= time.monotonic() - started < 0.5


def test_tallies_take_many_threads() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(tally.observe, 0.3, 0.1)
            pool.submit(tally.retried, throttled=True)
    assert (tally.requests, tally.retries, tally.throttled) == (400, 400, 400)
    assert tally.histogram[3] == 400
    assert tally.request_seconds == pytest.approx(120)
