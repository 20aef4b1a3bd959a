"""What an endpoint makes of OData's options, and where its next page is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from dlt.sources.helpers.rest_client.paginators import BasePaginator
from requests import Request, Response

from clinical_conductor.client import encode_query
from clinical_conductor.envelopes import open_envelope, read_document
from clinical_conductor.errors import PagingBroken

MAX_PAGE = 1000
"""The largest $top the API takes."""


@dataclass
class Capabilities:
    """What an instance was found to support for one endpoint; None where it is not known yet.

    Threads of one fan-out share one: each field is written whole, and a lost write is only found out again.
    """

    path: str | None = None
    """The template that answers, of the endpoint's paths."""
    order: bool | None = None
    keyset: bool | None = None
    count: bool | None = None
    cursor: str | None = None
    """Which of the endpoint's cursor candidates its records have."""
    cursor_filter: bool | None = None
    top: bool | None = None
    """False: $top is refused, or paging is ignored altogether."""
    bulk: bool | None = None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """These findings as JSON types, for dw_etl_capabilities."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Capabilities:
        """What `as_json` wrote; fields that are unknown here are left out."""
        known = {item.name for item in fields(cls)}
        given = {name: value for name, value in (found or {}).items() if name in known}
        return cls(**{**given, "notes": list(given.get("notes") or [])})

    def note(self, text: str) -> None:
        """Keep a remark for `doctor`, once."""
        if text not in self.notes:
            self.notes.append(text)


class ODataPaginator(BasePaginator):
    """Where the next page is. `Listing` moves it by what it finds out; `RESTClient.paginate` can use it as it is.

    On its own it follows next links, and else steps by $skip with one record of overlap.

    Args:
        page_size: $top; None to send none.
        order_by: $orderby, and the field that `after` filters by.
        filters: Conditions, joined by `and`.
        count: Whether to ask for $count on the first page.
    """

    def __init__(
        self,
        page_size: int | None = MAX_PAGE,
        *,
        order_by: str | None = None,
        filters: tuple[str, ...] = (),
        count: bool = False,
    ) -> None:
        super().__init__()
        self.page_size = page_size
        self.order_by = order_by
        self.filters = filters
        self.count = count
        self._after: str | None = None
        self._skip: int | None = None
        self._link: str | None = None
        self._url = ""
        self._previous: list[Any] = []

    def after(self, literal: str) -> None:
        """The page that starts at this key."""
        self._after, self._skip, self._link = literal, None, None

    def skip_to(self, position: int) -> None:
        """The page that starts at this position."""
        self._after, self._skip, self._link = None, position, None

    def follow(self, link: str, path: str) -> None:
        """The page behind a next link, absolute or relative, of which only the query counts.

        Raises:
            PagingBroken: it leads to another endpoint.
        """
        parts = urlsplit(link)
        if parts.path and parts.path.rstrip("/").rsplit("/", 1)[-1].lower() != path.rsplit("/", 1)[-1].lower():
            raise PagingBroken(
                f"{path}: its next link leads to another endpoint. Report this to who runs the instance."
            )
        self._after, self._skip, self._link = None, None, parts.query.replace(" ", "%20")

    @property
    def query(self) -> dict[str, Any] | str:
        """The query of the page this stands at."""
        if self._link is not None:
            return self._link
        conditions = [f"({text})" if " or " in text.lower() else text for text in self.filters]
        if self._after is not None:
            conditions.append(f"{self.order_by} ge {self._after}")
        further = self._after is not None or self._skip is not None
        return {
            # One record of every further page is the overlap, so a page must hold two.
            "$top": max(self.page_size, 2) if self.page_size and further else self.page_size,
            "$skip": self._skip or None,
            "$filter": " and ".join(conditions) or None,
            "$orderby": self.order_by,
            "$count": True if self.count and not further else None,
        }

    # dlt's three hooks.

    def init_request(self, request: Request) -> None:
        """Put the first page's query into the request."""
        self._url = request.url
        self.update_request(request)

    def update_state(self, response: Response, data: list[Any] | None = None) -> None:
        """Move on by what the page held; the overlap is taken out of `data` in place.

        Raises:
            PagingBroken: rows moved while they were read. Start again.
        """
        data = [] if data is None else data
        whole = list(data)
        if self._skip is not None:
            if whole == self._previous:
                data.clear()
            elif whole and whole[0] == self._previous[-1]:
                del data[0]
            else:
                raise PagingBroken(f"{urlsplit(self._url).path}: rows moved while they were read. Start again.")
        path = urlsplit(self._url).path
        link = open_envelope(read_document(response.content), what=path, single=None).link
        if link:
            self.follow(link, path)
        elif data and self._link is None:
            self.skip_to((self._skip or 0) + len(whole) - 1)
            self._previous = whole
        else:
            self._has_next_page = False

    def update_request(self, request: Request) -> None:
        """Put the query of the page this stands at into the request."""
        text = self.query if isinstance(self.query, str) else encode_query(self.query)
        request.url = f"{self._url}{'&' if '?' in self._url else '?'}{text}" if text else self._url
        request.params = {}
