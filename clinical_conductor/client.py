"""The HTTP client: dlt's RESTClient on one shared `requests` session. One place for the key, pace, retries and errors.

    Client.fetch(path, query) → Answer      one GET that either returns complete JSON or raises a class of errors.py

- The key travels in one header, only to the configured host: redirects are followed by hand, and never elsewhere.
- The pace is kept in the transport adapter, so that every attempt of every thread counts.
- What a retry may cure (see `RetriableError`) is retried here and nowhere else; the rest fails at once.
- No error and no log carries a body, a header or a query: a path is the most they tell.
"""

from __future__ import annotations

import copy
import os
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
import requests
import urllib3

os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")  # before dlt has a chance to read it

from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.sources.helpers.rest_client.auth import APIKeyAuth
from dlt.sources.helpers.rest_client.client import RESTClient

from clinical_conductor.envelopes import Document, open_envelope, read_document
from clinical_conductor.errors import (
    BadRequest,
    ConfigurationError,
    ConnectionTrouble,
    EndpointNotFound,
    EndpointNotOffered,
    RateLimited,
    ReadTimeout,
    RetriableError,
    ServerTrouble,
    Unauthorised,
    UnreadableAnswer,
)
from clinical_conductor.pacing import Limiter, PacedAdapter, Tally, wait
from clinical_conductor.settings import Settings, check_base_url

KEY_HEADERS = ("X-ApiKey", "CCAPIKey")
"""The two headers that instances of Clinical Conductor are known to take the key in."""
MAX_RETRY_AFTER = 120.0
"""A server that asks for a longer pause than this, in seconds, is asked again after it."""
CONNECT_TIMEOUT = 10.0
_CHUNK = 1 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(slots=True, repr=False)
class Answer:
    """One complete JSON answer. `path` has no query."""

    body: bytes
    document: Document
    status: int
    path: str
    server_date: datetime | None
    content_type: str


class Client(RESTClient):
    """The Clinical Conductor API. Threads may share one.

    Args:
        settings: Where to go, with which key, how fast and how patiently.
        base_url: Another instance than the settings' own.
        api_key: Its key.
        api_key_header: The header its key travels in.
        limiter: One to share with other clients of the same instance.

    Raises:
        ConfigurationError: the URL or the key is missing or cannot work.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        api_key_header: str | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        url = (base_url or settings.api_base_url).rstrip("/")
        key = api_key or settings.api_key
        if not url:
            raise ConfigurationError("CC_API_BASE_URL is not set: it should look like https://ccs.example.com/CCSWEB.")
        check_base_url(url)
        if not key:
            raise ConfigurationError("CC_API_KEY is not set: put the instance's API key there, or into .env.")
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError("CC_API_KEY holds a character that no header can carry: was it copied whole?")
        self.settings = settings
        self.key_header = api_key_header or settings.api_key_header
        self.limiter = limiter or Limiter(settings.api_rate_limit)
        self.tally = Tally()
        self.stop = threading.Event()
        self._adapter = PacedAdapter(self.limiter)
        self._timeout = (min(CONNECT_TIMEOUT, settings.timeout_seconds), settings.timeout_seconds)
        session = requests.Session()
        session.headers.update({"User-Agent": "trialsync", "Accept": "application/json"})
        session.mount("https://", self._adapter)
        session.mount("http://", self._adapter)
        # Proxies and certificates of the environment, looked up once: every request goes to this host, and looking them
        # up takes longer than reading a parent's few children.
        self._environment = session.merge_environment_settings(url, {}, True, None, None)
        super().__init__(
            base_url=url,
            auth=APIKeyAuth(name=self.key_header, api_key=key, location="header"),
            session=session,
            config=RuntimeConfiguration(),
        )

    def scoped(self) -> Client:
        """The same client with a tally of its own: one job's share of a common session and pace."""
        scoped = copy.copy(self)
        scoped.tally = Tally()
        return scoped

    def close(self) -> None:
        """Close the pooled connections."""
        self.session.close()

    def fetch(self, path: str, query: Mapping[str, Any] | str | None = None) -> Answer:
        """GET a path below the base URL until it answers complete JSON, or cannot.

        Args:
            path: Such as /api/v1/studies/odata.
            query: Parameters, or a query string that is encoded already (a next link's).

        Raises:
            RetriableError: a transient failure outlasted ETL_MAX_RETRIES retries (its subclasses say which).
            Interrupted: `stop` was set.
            Unauthorised: 401, 403.
            EndpointNotFound: 404, 410.
            EndpointNotOffered: 501.
            BadRequest: 400 and the other refusals.
            ConfigurationError: the API leads away from the configured host.
        """
        text = query if isinstance(query, str) else encode_query(query or {})
        url = self.base_url + path
        response, document = self._patiently(
            requests.Request("GET", f"{url}?{text}" if text else url, headers=self.headers, auth=self.auth)
        )
        return Answer(
            response.content,
            document,
            response.status_code,
            path,
            _http_date(response.headers.get("Date")),
            response.headers.get("Content-Type", ""),
        )

    # What RESTClient calls, so that `get` and `paginate` keep the same promises.

    def _create_request(self, *args: Any, **kwargs: Any) -> requests.Request:
        """RESTClient's own, but the query is encoded here: a blank is %20, which `requests` would write as "+"."""
        request = super()._create_request(*args, **kwargs)
        if request.params:
            request.url += ("&" if "?" in request.url else "?") + encode_query(request.params)
            request.params = {}
        if not request.url.startswith(self.base_url + "/"):
            raise ConfigurationError(
                "Only addresses below CC_API_BASE_URL are requested: the key must not go elsewhere."
            )
        return request

    def _send_request(self, request: requests.Request, **_: Any) -> requests.Response:
        return self._patiently(request)[0]

    def _log_request(self, request: Any, prepared_url: str) -> None:
        """Nothing: a filter may hold what must not be logged."""

    def detect_data_selector(self, response: requests.Response) -> str:  # noqa: ARG002
        """Not a guess: `extract_response` knows the API's envelopes."""
        return "$"

    def extract_response(self, response: requests.Response, data_selector: Any) -> list[Any]:  # noqa: ARG002
        """The records of an answer, whichever envelope they are in."""
        envelope = open_envelope(read_document(response.content), what=urlsplit(response.url).path, single=None)
        return [msgspec.json.decode(raw) for raw in envelope.raws]

    # One request and its retries.

    def _patiently(self, request: requests.Request) -> tuple[requests.Response, Document]:
        """The request's answer, after as many retries as the settings allow."""
        attempt = 0
        while True:
            try:
                return self._once(request)
            except RetriableError as error:
                if attempt >= self.settings.max_retries:
                    times = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise type(error)(f"{error} Asked {times}.", retry_after=error.retry_after) from None
                throttled = isinstance(error, RateLimited)
                self.tally.retried(throttled=throttled)
                delay = self.settings.retry_delay_seconds * 2**attempt
                jitter = random.uniform(0.0, 0.25 * delay)  # noqa: S311 - spreads retries, guards nothing
                if error.retry_after is not None:
                    delay = error.retry_after
                    if throttled:
                        self.limiter.hold(delay)
                wait(delay + jitter, self.stop)
                attempt += 1

    def _once(self, request: requests.Request) -> tuple[requests.Response, Document]:
        """One attempt, redirects within the instance included."""
        request.hooks = {}  # RESTClient's own would raise with the query in the message
        path = urlsplit(request.url).path
        try:
            prepared = self.session.prepare_request(request)
        except requests.exceptions.RequestException as error:
            raise ConfigurationError(
                f"{path}: no request can be made of this ({type(error).__name__}). Check CC_API_BASE_URL and "
                "CC_API_KEY_HEADER."
            ) from None
        for _ in range(_MAX_REDIRECTS):
            response, body = self._send(prepared, path)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                break
            target = urljoin(prepared.url or "", target)
            if urlsplit(target)[:2] != urlsplit(prepared.url or "")[:2]:
                elsewhere = f"{urlsplit(target).scheme}://{urlsplit(target).hostname}"
                raise ConfigurationError(
                    f"{path}: the API sends requests on to {elsewhere}, and the key is never sent to another address. "
                    "If that is the instance, put it into CC_API_BASE_URL."
                )
            prepared = prepared.copy()
            prepared.url = target
        else:
            raise ConfigurationError(f"{path}: the API sends requests round in circles. Check CC_API_BASE_URL.")
        self._refuse(response, path)
        response._content = body
        try:
            return response, read_document(b"[]" if response.status_code == 204 else body)
        except ValueError:
            raise _unreadable(path, body, response.headers.get("Content-Type", "")) from None

    def _send(self, prepared: requests.PreparedRequest, path: str) -> tuple[requests.Response, bytes]:
        """Put one request on the wire and read the whole answer."""
        self._adapter.turn.stop, self._adapter.turn.waited = self.stop, 0.0
        started = time.monotonic()
        try:
            response = self.session.send(prepared, timeout=self._timeout, allow_redirects=False, **self._environment)
            try:
                chunks = []
                while chunk := response.raw.read(_CHUNK, decode_content=True):
                    chunks.append(chunk)
                    if self.stop.is_set():
                        wait(0, self.stop)
                return response, chunks[0] if len(chunks) == 1 else b"".join(chunks)
            finally:
                response.close()  # after a whole answer the connection is back in the pool already
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
            raise _connection_error(path, error, self._timeout[1]) from None
        finally:
            waited = self._adapter.turn.waited
            self.tally.observe(max(time.monotonic() - started - waited, 0.0), waited)

    def _refuse(self, response: requests.Response, path: str) -> None:
        """Raise what a status other than success means."""
        status = response.status_code
        if 200 <= status < 300 and status != 206:
            return
        if status in (401, 403):
            other = next((name for name in KEY_HEADERS if name.lower() != self.key_header.lower()), KEY_HEADERS[0])
            raise Unauthorised(
                f"{path}: the API answered {status} to the key in the header {self.key_header}. Check CC_API_KEY"
                + (f", or set CC_API_KEY_HEADER={other}: " if status == 401 else f" and its rights, or try {other}: ")
                + "instances differ in the header they read."
                + (
                    " It came with a web page, so perhaps from a proxy and not from the instance."
                    if "html" in response.headers.get("Content-Type", "").lower()
                    else ""
                )
            )
        if status in (404, 410):
            raise EndpointNotFound(
                f"{path}: the API answered {status}. If every endpoint does, CC_API_BASE_URL lacks its path, such as "
                "/CCSWEB; else switch the job off or correct its path in dw_etl_jobs."
            )
        if status == 501:
            raise EndpointNotOffered(
                f"{path}: the API answered 501, so this edition of Clinical Conductor does not have the endpoint. "
                "Switch the job off in dw_etl_jobs."
            )
        retry_after = _retry_after(response.headers)
        if status == 429 or (status == 503 and retry_after is not None):
            raise RateLimited(
                f"{path}: the API answered {status}, too many requests. Lower CC_API_RATE_LIMIT if this goes on.",
                retry_after=retry_after,
            )
        if status in (408, 425) or status >= 500:
            raise ServerTrouble(
                f"{path}: the API answered {status}. Run the job again later; if it stays, ask who runs the instance.",
                retry_after=retry_after,
            )
        if status == 206:
            raise UnreadableAnswer(f"{path}: the API answered with a part only (206). A proxy may be at fault.")
        raise BadRequest(
            f"{path}: the API answered {status} to this request. `trialsync-etl doctor` says what it takes."
        )


def encode_query(query: Mapping[str, Any]) -> str:
    """A query string in which a blank is %20: strict OData servers refuse "+". Empty values are left out.

    >>> encode_query({"$top": 1000, "$filter": "id ge 5 and name eq 'a+b'", "$count": True, "$skip": None})
    "$top=1000&$filter=id%20ge%205%20and%20name%20eq%20'a%2Bb'&$count=true"
    """
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None and value != ""
    }
    return urlencode(given, quote_via=quote, safe="$,'()")


def _http_date(text: str | None) -> datetime | None:
    """The time of an HTTP date header in UTC."""
    try:
        time = parsedate_to_datetime(text or "")
    except (ValueError, TypeError):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The pause a server asks for, in seconds: given as seconds or as a date, at most MAX_RETRY_AFTER."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        date = _http_date(text)
        if date is None:
            return None
        # Against the server's own clock where it tells it, since ours may be off.
        seconds = (date - (_http_date(headers.get("Date")) or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None


def _unreadable(path: str, body: bytes, content_type: str) -> UnreadableAnswer:
    """Say what a 200 held instead of JSON, without a word of it."""
    if body.lstrip()[:1] == b"<" or "html" in content_type.lower():
        return UnreadableAnswer(
            f"{path}: the API answered 200 with a web page instead of JSON, as a proxy or a login page does. "
            "Check CC_API_BASE_URL, and that nothing between here and the instance asks for a login."
        )
    what = "an empty body" if not body.strip() else f"broken JSON ({len(body)} bytes, perhaps cut off)"
    return UnreadableAnswer(f"{path}: the API answered 200 with {what}. Run the job again; a proxy may be at fault.")


def _causes(error: BaseException | None) -> list[BaseException]:
    """An exception of the transport, and what it wraps, outermost first."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        inside = [getattr(error, "reason", None), *error.args]
        wrapped = next((item for item in inside if isinstance(item, BaseException)), None)
        error = wrapped or error.__cause__ or error.__context__
    return causes


def _connection_error(path: str, error: BaseException, timeout: float) -> RetriableError:
    """An exception of the transport as one of ours; its own text may quote the query, so only its class is told."""
    causes = _causes(error)

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    # A server that speaks no TLS waits for the rest of a "request" until the handshake's own, shorter time is up.
    handshake = any(isinstance(cause, TimeoutError) and "handshake" in str(cause) for cause in causes)
    if not handshake and any_of(requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return ReadTimeout(
            f"{path}: the API sent nothing for {timeout:g} s. Raise ETL_TIMEOUT_SECONDS, or lower ETL_BATCH_SIZE."
        )
    if any_of(ssl.SSLCertVerificationError):
        return ConnectionTrouble(
            f"{path}: the server's certificate could not be verified. If your network has its own authority, "
            "name its file in REQUESTS_CA_BUNDLE."
        )
    if handshake or any_of(ssl.SSLError):
        return ConnectionTrouble(
            f"{path}: no secure connection could be made. Does the address in CC_API_BASE_URL really speak https, on "
            "that port?"
        )
    if any_of(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return ConnectionTrouble(f"{path}: the proxy could not be used. Check HTTPS_PROXY and NO_PROXY.")
    if any_of(requests.exceptions.ConnectTimeout):
        return ConnectionTrouble(f"{path}: the instance did not accept a connection in time. Check CC_API_BASE_URL.")
    return ConnectionTrouble(
        f"{path}: the connection failed or broke off ({type(causes[-1]).__name__}). Check CC_API_BASE_URL and the "
        "network, and run the job again."
    )
