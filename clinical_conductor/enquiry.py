"""Asking one endpoint: which of its paths answers, which of OData's options it takes, then page after page.

What an instance refuses with 400 is left out and remembered in `Capabilities`, so it is found out once.
"""

from __future__ import annotations

from datetime import UTC, datetime

from clinical_conductor.catalog import Endpoint, fill_path, join_key
from clinical_conductor.client import Client
from clinical_conductor.envelopes import Envelope, open_envelope
from clinical_conductor.errors import BadRequest, ConfigurationError, EndpointNotFound
from clinical_conductor.odata import Capabilities, ODataPaginator
from clinical_conductor.records import RecordReader, Rows

_OPTIONS = ("cursor_filter", "count", "order", "top")


class Enquiry:
    """One endpoint, or one parent's children, being asked. `open` first; then move `pager` and `ask`.

    Args:
        client: Whom to ask.
        endpoint: The catalog row.
        parent: The parent's key parts; the path's parameters are filled with the last of them.
        capabilities: What is known of the endpoint; what is found out is written there.
        since: Only records whose cursor is at or after this, where the endpoint can filter.
        page_size: $top.
        bulk: Use the endpoint's bulk route, whose records name their parents themselves.
        filters: A $filter of the caller's.

    Attributes:
        path: The path that answered, filled in.
        pager: Where the next page is.
        server_time: The server's clock at the first answer.
    """

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        parent: tuple[str, ...],
        *,
        capabilities: Capabilities,
        since: datetime | None,
        page_size: int,
        bulk: bool,
        filters: str | None,
    ) -> None:
        self.endpoint = endpoint
        self.parent = parent
        self.capabilities = capabilities
        self.page_size = page_size
        self.bulk = bulk
        self.path = ""
        self.pager = ODataPaginator(None)
        self.server_time: datetime | None = None
        self._client = client
        self._since = since
        self._filters = (filters,) if filters else ()
        self._reader = RecordReader(endpoint)
        self._began = datetime.now(UTC)

    def open(self) -> tuple[Envelope, Rows]:
        """The first page, on the first of the endpoint's paths that answers."""
        found, endpoint = self.capabilities, self.endpoint
        templates = list(endpoint.paths)
        if self.bulk:
            if endpoint.bulk is None:
                raise ConfigurationError(f"{endpoint.resource} has no bulk route: read it parent by parent.")
            templates = [endpoint.bulk.path]
        elif found.path in templates:
            # What answered once stays; a listing may still have moved to its other path.
            others = [] if self.parent else [path for path in templates if path != found.path]
            templates = [found.path, *others]
        trouble: EndpointNotFound | BadRequest | None = None
        for template in templates:
            parameters = template.count("{")
            values = self.parent[-parameters:] if parameters else ()
            self.path = fill_path(template, values)
            named = endpoint.bulk.parent_fields if self.bulk and endpoint.bulk else endpoint.parent_fields
            self._reader = RecordReader(endpoint, join_key(values), named if self.bulk or not values else ())
            try:
                first = self._opening(template)
            except (EndpointNotFound, BadRequest) as error:
                # A path that does not exist may match another one's parameter, and be refused for that with 400.
                trouble = trouble or error
            else:
                if self.bulk:
                    found.bulk = True
                else:
                    found.path = template
                return first
        if len(templates) > 1 and isinstance(trouble, EndpointNotFound):
            raise EndpointNotFound(f"{trouble} Its other path, {templates[-1]}, was tried too.")
        raise trouble or EndpointNotFound(f"{endpoint.resource}: the catalog names no path.")

    def _opening(self, template: str) -> tuple[Envelope, Rows]:
        """The first page with as many options as the endpoint takes."""
        found = self.capabilities
        if not template.endswith("/odata") or found.top is False:
            self.pager = ODataPaginator(None, filters=self._filters)
            return self.ask()
        cursor = self._cursor()
        wanted = {
            name
            for name, possible in (
                ("cursor_filter", cursor is not None),
                ("count", True),
                ("order", self.endpoint.key.rule == "fields" and self.endpoint.key.fields == ("id",)),
                ("top", True),
            )
            if possible and getattr(found, name) is not False
        }
        try:
            first = self._with(wanted, cursor)
        except BadRequest:
            first, wanted = self._with_fewer(wanted, cursor)
        for name in wanted:
            if name != "count" or first[0].count is not None:
                setattr(found, name, True)
        return first

    def _cursor(self) -> str | None:
        """The cursor to filter by: known, or found by looking at one record; None where there is nothing to filter."""
        found, candidates = self.capabilities, self.endpoint.cursor
        if self._since is None or not candidates or found.cursor_filter is False:
            return None
        if found.cursor is None:
            self.pager = ODataPaginator(1)
            try:
                self.ask()
            except BadRequest:
                return None
        return found.cursor

    def _with(self, options: set[str], cursor: str | None) -> tuple[Envelope, Rows]:
        """The first page with these options."""
        filters = self._filters
        if "cursor_filter" in options and self._since is not None:
            moment = self._since.astimezone(UTC).isoformat().replace("+00:00", "Z")
            filters = (f"{cursor} ge {moment}", *filters)
        self.pager = ODataPaginator(
            self.page_size if "top" in options else None,
            order_by="id" if "order" in options else None,
            filters=filters,
            count="count" in options,
        )
        return self.ask()

    def _with_fewer(self, wanted: set[str], cursor: str | None) -> tuple[tuple[Envelope, Rows], set[str]]:
        """After a 400: leave options out, first those not proven yet, until it works; then find the one at fault."""
        left = set(wanted)
        dropped: list[str] = []
        order = sorted(wanted, key=lambda name: (getattr(self.capabilities, name) is True, _OPTIONS.index(name)))
        for name in order:
            left.discard(name)
            dropped.append(name)
            try:
                first = self._with(left, cursor)
            except BadRequest:
                if not left:
                    raise
            else:
                break
        at_fault = dropped.pop()
        setattr(self.capabilities, at_fault, False)
        self.capabilities.note(f"{at_fault} is answered with 400")
        for name in dropped if at_fault != "top" else ():  # the others get a second chance, one by one
            try:
                first = self._with(left | {name}, cursor)
            except BadRequest:
                setattr(self.capabilities, name, False)
                self.capabilities.note(f"{name} is answered with 400")
                first = self._with(left, cursor)
            else:
                left.add(name)
        return first, left

    def ask(self, *, unlike: list[str] | None = None) -> tuple[Envelope, Rows]:
        """The page that the pager stands at.

        Args:
            unlike: What the page before held: the same once more may be a slip of a cache, and is asked for again.
        """
        answer = self._client.fetch(self.path, self.pager.query)
        if self.server_time is None:
            self.server_time = answer.server_date or self._began
        envelope = open_envelope(answer.document, what=self.endpoint.resource, single=self.endpoint.single)
        rows = self._reader.read(envelope)
        if self.capabilities.cursor is None:
            self.capabilities.cursor = next((name for name in self.endpoint.cursor if name in rows.cursors), None)
        return self.ask() if len(rows) > 1 and rows.identities() == unlike else (envelope, rows)

    def start_over(self, page_size: int | None, *, count: bool = False) -> None:
        """Stand at the first page under the same filters, with another $top and no order."""
        self.pager = ODataPaginator(page_size, filters=self.pager.filters, count=count)


def count_upstream(client: Client, endpoint: Endpoint, capabilities: Capabilities) -> int | None:
    """How many records the server says a listing has, by one small request; None where it does not say."""
    path = fill_path(capabilities.path or endpoint.path, ())
    try:
        answer = client.fetch(path, {"$top": 1, "$count": "true"})
    except BadRequest:
        return None
    return open_envelope(answer.document, what=endpoint.resource, single=endpoint.single).count
