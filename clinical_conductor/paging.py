"""Paging that neither loses nor repeats rows, whatever an endpoint makes of $top, $skip, $filter and $orderby.

Three ways through a listing, best first; which one an endpoint honours is found by looking at what it serves, and
remembered in `Capabilities`:

1. By key: `$orderby=id` and `$filter=id ge <last>`. One record of overlap proves that nothing lies between two pages,
   and rows that vanish meanwhile shift nothing.
2. By next link, to the last one.
3. By `$skip`, one record of overlap each. Where the overlap does not match, rows have moved: step back and find the
   last known one, or start again.

An endpoint that answers the same page whatever it is asked ignores paging: what it serves is all there is. A page that
merely looks last is not believed, because a server may cut pages silently: the end is confirmed by one more request,
or by the number of records that the server itself reports.

A next link is followed on the configured host and path only, taking its query: a proxy's inner address in it does no
harm, and the key goes nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from datetime import datetime

from clinical_conductor.catalog import Endpoint
from clinical_conductor.client import Client
from clinical_conductor.enquiry import Enquiry
from clinical_conductor.envelopes import Envelope
from clinical_conductor.errors import BadRequest, EndpointNotFound, EndpointNotOffered, PagingBroken, ParentGone
from clinical_conductor.odata import MAX_PAGE, Capabilities
from clinical_conductor.overlap import again_anywhere, again_at_start, again_under_last_key, ascending, follows
from clinical_conductor.records import Page, Rows

DEFAULT_PAGE = 50
"""The API's own page size where none is asked for; a longer listing is cut at a multiple of it."""
MAX_RESTARTS = 3
_MAX_SHIFTS = 10
_LOOKS_BARE = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|-?\d{1,18}")


class _Shifted(Exception):
    """Rows moved under a $skip listing, and the last known one was not found again."""


class Listing:
    """One enumeration of an endpoint, or of one parent's children. Iterate once; then ask what it came to.

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
        complete: Whether the enumeration is proven to hold all that was asked for.
        reported_count: How many records the server says there are.
        served: How many were served, the overlap of pages not counted.
        cursor_high: The greatest value of the cursor that was served.
        restarts: How often the enumeration began again.
    """

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        parent: tuple[str, ...] = (),
        *,
        capabilities: Capabilities,
        since: datetime | None = None,
        page_size: int = MAX_PAGE,
        bulk: bool = False,
        filters: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.capabilities = capabilities
        self._enquiry = Enquiry(
            client,
            endpoint,
            parent,
            capabilities=capabilities,
            since=since,
            page_size=page_size,
            bulk=bulk,
            filters=filters,
        )
        self._parent = parent
        self._page_size = page_size
        self._bulk = bulk
        self._bare_keys = False
        self.reported_count: int | None = None
        self.restarts = 0
        self._reset()

    def _reset(self) -> None:
        """Nothing served yet."""
        self.complete = False
        self.served = 0
        self.cursor_high: datetime | None = None
        self._rows: Rows = Rows([], [], {}, None, None, {}, "")  # the page before
        self._link: str | None = None  # the page before's next link
        self._end = 0  # the server's position behind the page before
        self._shifts = 0
        self._by_keys = False  # whether it was read by key to its end
        self._ended = False  # whether a page was seen to be the last

    @property
    def server_time(self) -> datetime | None:
        """The server's clock at the first answer; None before it."""
        return self._enquiry.server_time

    def __iter__(self) -> Iterator[Page]:
        """The pages, with what pages share served once.

        Raises:
            ParentGone: 404 for this parent.
            EndpointNotFound: 404 for the listing, on every path that is known.
            PagingBroken: the endpoint cannot be enumerated without losing rows.
            UnknownEnvelope: an answer in a shape that is not known.
        """
        try:
            while True:
                try:
                    yield from self._enumerate()
                except _Shifted:
                    if self.restarts >= MAX_RESTARTS:
                        raise PagingBroken(
                            f"{self.endpoint.resource}: rows of {self._enquiry.path} moved from page to page however "
                            "often it was read. Run the job when the instance is quiet."
                        ) from None
                    self.restarts += 1
                    self._reset()
                else:
                    return
        except (EndpointNotFound, EndpointNotOffered, BadRequest) as error:
            if self._bulk:
                self.capabilities.bulk = False
                raise EndpointNotFound(f"{self.endpoint.resource} has no bulk route here. {error}") from None
            if self._parent and isinstance(error, EndpointNotFound):
                raise ParentGone(f"{self.endpoint.resource}: {error}") from None
            raise

    @property
    def cut(self) -> bool:
        """Whether it breaks off before its end; one that is merely not `complete` had rows moving while it was read."""
        return not self.complete and not self._ended

    def _enumerate(self) -> Generator[Page, None, None]:
        """All pages, once."""
        envelope, rows = self._enquiry.open()
        found, odata = self.capabilities, self._enquiry.path.endswith("/odata")
        self.reported_count = envelope.count
        yield from self._serve(envelope, rows, len(rows))
        if self.endpoint.single:
            self.complete = True
        elif not odata or found.top is False:
            yield from self._through_plain(envelope, probe=odata or found.top is None)
        elif self._is_all(envelope, rows):
            self.complete = True
        else:
            yield from self._through_pages()
        self._reconcile()

    def _serve(self, envelope: Envelope, rows: Rows, end: int, without: set[int] | None = None) -> Iterator[Page]:
        """Hand on a page, and remember it as the one before."""
        without = without or set()
        self._rows, self._link, self._end = rows, envelope.link, end
        self.served += len(rows) - len(without)
        page = rows.page(without)
        high = rows.cursors.get(self.capabilities.cursor or "")
        if high is not None:
            self.cursor_high = high if self.cursor_high is None else max(high, self.cursor_high)
        if page.read:
            yield page

    def _is_all(self, envelope: Envelope, rows: Rows) -> bool:
        """Whether a first page is the whole listing, beyond doubt."""
        if envelope.link:
            return False
        if not rows:
            return not envelope.count
        if len(rows) % DEFAULT_PAGE == 0 or len(rows) > self._page_size:
            return False  # perhaps cut at the server's own limit, with a count of this page only
        if envelope.count is not None:
            return len(rows) >= envelope.count
        # The word of an envelope with a next link that is empty is enough for one parent of many thousand.
        return bool(self._parent) and envelope.speaks_of_links and len(rows) < self._page_size

    # The ways through a listing.

    def _through_pages(self) -> Generator[Page, None, None]:
        """The rest of a paged listing, by the best way that the endpoint honours."""
        found = self.capabilities
        by_key = found.keyset is not False and self._enquiry.pager.order_by and self._rows.raws
        if by_key and (yield from self._by_key()):
            return
        if self._link and not self._steps() and (yield from self._by_link()):
            return
        if self._rows.raws:
            yield from self._by_skip()

    def _by_key(self) -> Generator[Page, None, bool]:
        """Pages of `id ge last` until one holds nothing but the last record. False: not honoured."""
        found = self.capabilities
        longest = 0
        if not ascending(self._rows):
            return self._refuse_keyset("$orderby=id is not honoured")
        while self._rows.keyed:
            before = self._rows.keys
            last = str(before[-1])
            self._enquiry.pager.after(self._literal())
            try:
                envelope, rows = self._enquiry.ask(unlike=self._rows.identities())
            except BadRequest:
                if not self._bare_keys and self._literal()[:1] == "'" and _LOOKS_BARE.fullmatch(last):
                    self._bare_keys = True
                    continue
                if found.keyset:
                    raise
                return self._refuse_keyset("a filter on id is answered with 400")
            keys = rows.keys
            if not keys and not found.keyset:
                return False  # either the last record has gone, or the filter finds nothing whatever it says
            only_last = all(key == last for key in keys)
            if not only_last and not follows(self._rows, rows):
                return self._refuse_keyset("a filter on id is not honoured") if rows.keyed else False
            if len(before) > 1:
                found.keyset = True
            overlap = next((i for i, key in enumerate(keys) if key != last), len(keys))
            if only_last and overlap > 1 and (overlap >= self._page_size or overlap >= longest > 0):
                raise PagingBroken(
                    f"{self.endpoint.resource}: one id fills a whole page of {self._enquiry.path}, so what follows it "
                    "cannot be reached. Raise ETL_BATCH_SIZE, or report the repeated id to who runs the instance."
                )
            again = again_under_last_key(self._rows, rows, overlap)
            yield from self._serve(envelope, rows, self._end + len(rows) - len(again), again)
            if only_last:
                self.complete = self._by_keys = self._ended = True
                return True
            longest = max(longest, len(before))
        found.note("a record without an id: read by $skip from there")
        return False

    def _refuse_keyset(self, why: str) -> bool:
        """Remember that paging by key does not work here."""
        self.capabilities.keyset = False
        self.capabilities.note(why)
        return False

    def _literal(self) -> str:
        """The last key as the filter writes it: a number in its own digits, a text in quotes, a GUID as it is taken."""
        literals, last = self._rows.literals, str(self._rows.keys[-1])
        if self._bare_keys or (literals and literals[-1][:1] != b'"'):
            return last
        return "'" + last.replace("'", "''") + "'"

    def _steps(self) -> bool:
        """Whether the next link is a $skip to where this page ends: one record of overlap then proves more."""
        stepped = re.search(r"(?:\$|%24)skip=(\d+)(?:&|$)", self._link or "", re.IGNORECASE)
        return stepped is not None and int(stepped[1]) == self._end > 0

    def _by_link(self) -> Generator[Page, None, bool]:
        """Next links to the last one. False: the links do not lead on."""
        followed: set[str] = set()
        while self._link:
            if self._link in followed:
                self.capabilities.note("its next links go round in circles")
                return False
            followed.add(self._link)
            try:
                self._enquiry.pager.follow(self._link, self._enquiry.path)
            except PagingBroken:
                self.capabilities.note("its next link leads to another endpoint")
                return False
            before = self._rows.identities()
            envelope, rows = self._enquiry.ask(unlike=before)
            if rows.raws and rows.identities() == before:
                self.capabilities.note("its next link leads to the same page")
                return False
            again = again_at_start(self._rows, rows)
            yield from self._serve(envelope, rows, self._end + len(rows) - len(again), again)
        self.complete = self._ended = True
        return True

    def _by_skip(self) -> Generator[Page, None, None]:
        """Pages by position, each beginning with the last record of the one before."""
        only_page = self._end == len(self._rows)
        while True:
            before = self._rows.identities()
            position = self._end - 1
            self._enquiry.pager.skip_to(position)
            try:
                envelope, rows = self._enquiry.ask(unlike=before)
            except BadRequest:
                if self._enquiry.pager.page_size is not None and self.capabilities.top is not True:
                    self._enquiry.pager.page_size = None
                    continue
                self.capabilities.note("$skip is answered with 400")
                self.complete = only_page and len(before) % DEFAULT_PAGE != 0
                return
            identities = rows.identities()
            if only_page and len(rows) > 1 and identities[: len(before)] == before:
                yield from self._ignored(envelope, rows)
                return
            if not identities or identities[0] != before[-1]:
                yield from self._after_a_shift(envelope, rows, position)
            elif len(rows) == 1:
                self.complete = self._shifts == 0
                self._ended = True
                return
            else:
                yield from self._serve(envelope, rows, position + len(rows), {0})
            only_page = False

    def _after_a_shift(self, envelope: Envelope, rows: Rows, position: int) -> Iterator[Page]:
        """The overlap did not match, so rows moved: find the last known one, here or a page further back."""
        self._shifts += 1
        if self._shifts > _MAX_SHIFTS:
            raise _Shifted
        if not again_anywhere(self._rows, rows):
            position = max(position - len(self._rows), 0)
            self._enquiry.pager.skip_to(position)
            envelope, rows = self._enquiry.ask()
        again = again_anywhere(self._rows, rows)
        if not again:
            raise _Shifted
        yield from self._serve(envelope, rows, position + len(rows), again)

    def _ignored(self, envelope: Envelope, rows: Rows) -> Iterator[Page]:
        """The endpoint serves its first page whatever it is asked: that is all there is, unless it was cut."""
        found, top = self.capabilities, self._enquiry.pager.page_size
        if top and (len(rows) == top or len(rows) % DEFAULT_PAGE == 0):
            # Only another $top tells a listing that ends here from one that is cut here.
            answers = [(top, envelope, rows)]
            for other in (None, MAX_PAGE) if top < MAX_PAGE else (None,):
                self._enquiry.start_over(other)
                answers.append((other or 0, *self._enquiry.ask()))
            limit, envelope, rows = max(answers, key=lambda answer: len(answer[2]))
            honours = len({len(answer[2]) for answer in answers}) > 1
            cut = len(rows) == limit or len(rows) % DEFAULT_PAGE == 0
            if honours and cut and self.reported_count != len(rows):
                raise PagingBroken(
                    f"{self.endpoint.resource}: {self._enquiry.path} cuts its answer at {len(rows)} records and "
                    "ignores $skip and $filter, so the rest cannot be reached. Report this to who runs the instance."
                )
        else:
            honours = False
        found.keyset = False
        if not honours:
            found.top = False
            found.note("paging is ignored")
        again = again_anywhere(self._rows, rows)
        yield from self._serve(envelope, rows, len(rows), again)
        self.complete = not envelope.link

    def _through_plain(self, envelope: Envelope, *, probe: bool) -> Generator[Page, None, None]:
        """An endpoint that takes no options answers all at once, unless it has a next link or seems to be cut."""
        if envelope.link and not self._steps() and (yield from self._by_link()):
            return
        served = len(self._rows)
        more = bool(envelope.link) or (envelope.count is not None and envelope.count > served)
        cut = envelope.count is None and served % DEFAULT_PAGE == 0
        if not served or not (more or (cut and probe)):
            self.complete = not more
            return
        self._enquiry.start_over(None if self.capabilities.top is False else MAX_PAGE)
        try:
            yield from self._by_skip()
        except (EndpointNotFound, EndpointNotOffered):
            self.complete = not more

    def _reconcile(self) -> None:
        """Not complete where the server reports more than it served."""
        if not self.complete or self.reported_count is None or self.reported_count <= self.served:
            return
        if self._by_keys:  # rows that vanished meanwhile make no gap here: what counts is how many there are now
            self._enquiry.start_over(1, count=True)
            count = self._enquiry.ask()[0].count
            self.reported_count = self.reported_count if count is None else count
        if self.reported_count > self.served:
            self.complete = False
            self.capabilities.note("its $count is greater than what it serves")
