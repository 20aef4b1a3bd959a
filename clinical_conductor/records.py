"""From the records of an answer to pages with keys. Bytes only: nothing here knows of HTTP or of PostgreSQL.

A record stays the text the API sent, byte for byte: a page is split with `msgspec.Raw`, which looks at the records
without decoding them. Only the key, the parent and the cursor are read, by one small struct per endpoint.

One rule for what PostgreSQL's jsonb cannot hold: a record with \\u0000, with a lone surrogate or with bytes that are
not UTF-8, and a record without a usable key, is never altered and never dropped. It is set aside as `Rejected`, with
its reason and its raw text, and the rest of the page goes on. An escaped backslash before "u0000" is ordinary text.

Nothing here that holds data has a repr that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

from clinical_conductor.catalog import Endpoint, join_key
from clinical_conductor.envelopes import ESCAPE, Envelope

MAX_KEY_LENGTH = 255

REASON_NUL = "holds \\u0000, which PostgreSQL cannot store"
REASON_SURROGATE = "holds a lone surrogate, which is no character"
REASON_UTF8 = "holds bytes that are not UTF-8"
REASON_NO_OBJECT = "is not a JSON object"
REASON_DEPTH = "is nested too deeply to be read"

_ABSENT = Raw(b"")


@dataclass(slots=True, repr=False)
class Rejected:
    """A record that is set aside: what is known of its key, its parent, why, and its raw text."""

    key: str | None
    parent: str
    reason: str
    raw: str


@dataclass(slots=True, repr=False)
class Page:
    """Records as served, each with its source_id; `parents` only where the record itself names its parent."""

    records: list[Raw]
    keys: list[str]
    parents: list[str] | None = None
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def read(self) -> int:
        """How many records were served: kept and set aside."""
        return len(self.records) + len(self.rejected)


def content_hash(raw: bytes | Raw) -> bytes:
    """16 bytes over a record's verbatim text: equal bytes, equal hash."""
    return blake2b(raw, digest_size=16).digest()


@dataclass(slots=True, repr=False)
class Rows:
    """The records of one answer in their order, with what was read from each.

    `keys[i]` is None where record i has no usable key; `reasons` says why a record is set aside. `literals` are the
    keys' own JSON texts, for the filter of keyset paging; only where the key is one field.
    """

    raws: list[Raw]
    keys: list[str | None]
    reasons: dict[int, str]
    parents: list[str | None] | None
    literals: list[bytes] | None
    cursors: dict[str, datetime | None]
    """Cursor fields that occur on this page, each with its greatest value."""
    parent_key: str

    def __len__(self) -> int:
        return len(self.raws)

    @property
    def keyed(self) -> bool:
        """Whether every record has a key, set aside or not."""
        return None not in self.keys

    def identities(self) -> list[str]:
        """What tells these records apart: the key, or the content where there is none."""
        if self.keyed:
            return self.keys  # type: ignore[return-value]
        return [
            "\0" + content_hash(raw).hex() if key is None else key
            for raw, key in zip(self.raws, self.keys, strict=True)
        ]

    def page(self, without: frozenset[int] | set[int] = frozenset()) -> Page:
        """These records as a Page, except those at the positions in `without`."""
        if not without and not self.reasons:
            return Page(self.raws, self.keys, self.parents, [])  # type: ignore[arg-type]
        kept = [i for i in range(len(self.raws)) if i not in without and i not in self.reasons]
        parents = self.parents
        return Page(
            [self.raws[i] for i in kept],
            [self.keys[i] for i in kept],  # type: ignore[misc]
            None if parents is None else [parents[i] for i in kept],  # type: ignore[misc]
            [
                Rejected(
                    self.keys[i],
                    (parents[i] or "") if parents else self.parent_key,
                    reason,
                    bytes(self.raws[i]).decode("utf-8", "backslashreplace").replace("\0", "\\0"),
                )
                for i, reason in sorted(self.reasons.items())
                if i not in without
            ],
        )


class RecordReader:
    """Reads key, parent and cursor of an endpoint's records.

    Args:
        endpoint: The catalog row: its key rule and cursor candidates.
        parent_key: The parent that the request was made for; "" for a listing.
        parent_fields: Where a record of a listing names its parent; () where it does not.
    """

    def __init__(self, endpoint: Endpoint, parent_key: str = "", parent_fields: tuple[str, ...] = ()) -> None:
        self._key = endpoint.key
        self._cursor = endpoint.cursor
        self._parent_key = parent_key
        self._parent_fields = parent_fields
        names = [*(self._key.fields if self._key.rule == "fields" else ()), *parent_fields, *self._cursor]
        self._wanted = tuple(dict.fromkeys(name.split(".")[0] for name in names))
        self._decoder, self._record_decoder = _decoders(self._wanted)

    def read(self, envelope: Envelope) -> Rows:
        """The records of one answer with their keys; a record in trouble is marked, and never stops the others."""
        raws = envelope.raws
        reasons: dict[int, str] = {}
        if envelope.suspicious:
            reasons = {i: reason for i, raw in enumerate(raws) if (reason := _unstorable(bytes(raw)))}
        columns = self._columns(envelope, reasons) if self._wanted else {}
        keys, literals = self._keys(raws, columns, reasons)
        parents = None
        if self._parent_fields:
            parents = _joined([self._values(columns, name) for name in self._parent_fields], len(raws))
            for i, parent in enumerate(parents):
                if parent is None or len(parent) > MAX_KEY_LENGTH:
                    reasons.setdefault(i, f"names no parent in {' and '.join(self._parent_fields)}")
        cursors = {}
        for name in self._cursor:
            texts = [text for text in self._values(columns, name) if text[:1] == b'"']
            if texts:
                times = [time for text in texts if (time := parse_time(text[1:-1].decode("utf-8", "replace")))]
                cursors[name] = max(times, default=None)
        return Rows(raws, keys, reasons, parents, literals, cursors, self._parent_key)

    def _columns(self, envelope: Envelope, reasons: dict[int, str]) -> dict[str, list[bytes]]:
        """Per wanted field, its JSON text in each record; b"" where the record lacks it."""
        try:
            rows = self._decoder.decode(envelope.array)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            rows = []
            for i, raw in enumerate(msgspec.json.decode(envelope.array, type=list[Raw])):
                try:
                    rows.append(self._record_decoder.decode(raw))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    reasons.setdefault(i, REASON_NO_OBJECT if self._key.rule == "fields" else "cannot be read")
                    rows.append(self._record_decoder.decode(b"{}"))
        columns = {}
        for number, name in enumerate(self._wanted):
            spelled = [f"f{number}_{i}" for i in range(len(_spellings(name)))]
            first, *others = ([bytes(getattr(row, attribute)) for row in rows] for attribute in spelled)
            for other in others:
                if any(other):
                    first = [b if a in (b"", b"null") and b else a for a, b in zip(first, other, strict=True)]
            columns[name] = first
        return columns

    def _values(self, columns: dict[str, list[bytes]], name: str) -> list[bytes]:
        """JSON texts of a field that may be nested, such as study.id."""
        first, *rest = name.split(".")
        values = columns[first]
        for part in rest:
            decoder = _decoders((part,))[1]
            values = [_inner(decoder, value) if value[:1] == b"{" else b"" for value in values]
        return values

    def _keys(
        self, raws: list[Raw], columns: dict[str, list[bytes]], reasons: dict[int, str]
    ) -> tuple[list[str | None], list[bytes] | None]:
        """Every record's key by the endpoint's rule, and the literals where the rule is one field."""
        rule, names = self._key.rule, self._key.fields
        if rule == "single":
            return [self._parent_key or "instance"] * len(raws), None
        literals = None
        keys: list[str | None]
        if rule == "fields":
            values = [self._values(columns, name) for name in names]
            if len(values) == 1:
                literals = values[0]
                keys = [_scalar(text) for text in literals]
            else:
                keys = _joined(values, len(raws))
            trouble = f"has no usable key in {' and '.join(names)}"
        else:
            keys = [_value_key(bytes(raw)) if rule == "value" else _content_key(bytes(raw)) for raw in raws]
            trouble = REASON_DEPTH
        if None in keys or max(map(len, keys), default=0) > MAX_KEY_LENGTH:  # type: ignore[arg-type]
            for i, key in enumerate(keys):
                if key is None:
                    reasons.setdefault(i, trouble)
                elif len(key) > MAX_KEY_LENGTH:
                    reasons.setdefault(i, f"has a key of {len(key)} characters; at most {MAX_KEY_LENGTH} fit")
                    keys[i] = None
        return keys, literals


def _spellings(name: str) -> tuple[str, ...]:
    """A field's name as the API may spell it: as given, and with the first letter in the other case."""
    other = name[:1].swapcase() + name[1:]
    return (name, other, "ID") if name.lower() == "id" else (name, other)


@cache
def _decoders(names: tuple[str, ...]) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """Decoders of a page and of one record that read these fields only, each as its own JSON text."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for number, name in enumerate(names):
        for i, spelled in enumerate(_spellings(name)):
            fields.append((f"f{number}_{i}", Raw, _ABSENT))
            rename[f"f{number}_{i}"] = spelled
    struct = msgspec.defstruct("Wanted", fields, rename=rename, gc=False)
    return msgspec.json.Decoder(list[struct]), msgspec.json.Decoder(struct)  # type: ignore[valid-type]


def _inner(decoder: msgspec.json.Decoder[Any], value: bytes) -> bytes:
    """The one wanted field of a nested object."""
    found = decoder.decode(value)
    return next((text for name in found.__struct_fields__ if (text := bytes(getattr(found, name)))), b"")


def _scalar(text: bytes) -> str | None:
    """A key from its JSON text: a string's value, a number's own digits, None for everything else."""
    first = text[:1]
    if first == b'"':
        try:
            return (msgspec.json.decode(text, type=str) if b"\\" in text else text[1:-1].decode()) or None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
    return text.decode() if first == b"-" or first.isdigit() else None


def _joined(columns: Sequence[list[bytes]], length: int) -> list[str | None]:
    """Several fields per record as one key; None where any of them is missing."""
    keys: list[str | None] = []
    for i in range(length):
        parts = [_scalar(column[i]) for column in columns]
        keys.append(None if None in parts else join_key(parts))  # type: ignore[arg-type]
    return keys


def _value_key(raw: bytes) -> str | None:
    """A bare value is its own key; should an endpoint of bare values serve objects, their content is."""
    return _content_key(raw) if raw[:1] in (b"{", b"[") else _scalar(raw)


def _content_key(raw: bytes) -> str | None:
    """A hash of the record with blanks and the order of its fields left out; numbers count as they are written."""

    def number(text: str) -> list[str]:
        return ["#", text]

    try:
        tree = json.loads(raw, parse_int=number, parse_float=number)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _unstorable(raw: bytes) -> str | None:
    """Why PostgreSQL could not hold this text, or None."""
    if b"\\u" in raw:
        for hit in ESCAPE.finditer(raw):
            if hit["nul"]:
                return REASON_NUL
            if hit["lone"]:
                return REASON_SURROGATE
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        return REASON_UTF8
    return None


def parse_time(text: str) -> datetime | None:
    """An ISO 8601 text as a time in UTC; one without an offset is taken as UTC; None where it cannot be read.

    >>> parse_time("2024-03-01T10:00:00.1234567+02:00").isoformat(), parse_time("2024-03-01").isoformat()
    ('2024-03-01T08:00:00.123456+00:00', '2024-03-01T00:00:00+00:00')
    """
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
