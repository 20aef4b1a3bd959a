"""From the body of an answer to the records inside it, whichever of the API's envelopes they are in.

A body is opened with `msgspec.Raw`, which finds where the records begin and end without decoding them: each stays the
text that was served, byte for byte. Nothing here that holds data has a repr that shows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from clinical_conductor.errors import UnknownEnvelope

_BOM = b"\xef\xbb\xbf"
# One escape at a time, from the left, so that an escaped backslash is never taken for the start of the next escape.
ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a surrogate pair: one character
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|(?P<nul>\\u0000)|\\.",
    re.DOTALL,
)


@dataclass(slots=True, repr=False)
class Document:
    """A body that was found to be complete JSON, opened one level deep.

    `masked` equals the body but for lone surrogates, which msgspec refuses: each is replaced by an escape of the same
    length, so that positions agree. `suspicious` says that some record needs a closer look.
    """

    text: bytes
    masked: bytes
    top: list[Raw] | dict[str, Raw] | Raw
    suspicious: bool


def read_document(body: bytes) -> Document:
    """Check that a body is one complete JSON value, and open it.

    Raises:
        ValueError: it is not: cut off, HTML, empty, or several values.
    """
    text = body[len(_BOM) :] if body.startswith(_BOM) else body
    masked = text
    suspicious = b"\\u0000" in text
    if b"\\ud" in text or b"\\uD" in text:
        masked = ESCAPE.sub(lambda hit: b"\\u003f" if hit["lone"] else hit[0], text)
        suspicious = suspicious or masked != text
    if not text.isascii():
        try:
            str(text, "utf-8")
        except UnicodeDecodeError:
            suspicious = True
    kind: Any = {b"[": list[Raw], b"{": dict[str, Raw]}.get(text.lstrip()[:1], Raw)
    try:
        return Document(text, masked, msgspec.json.decode(masked, type=kind), suspicious)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("not one complete JSON value") from None


@dataclass(slots=True, repr=False)
class Envelope:
    """The records of one answer, and what it says about the rest of the listing."""

    shape: Literal["array", "value", "items", "single"]
    raws: list[Raw]
    array: bytes
    """JSON array of the (masked) records, for the struct decoder."""
    link: str | None = None
    speaks_of_links: bool = False
    count: int | None = None
    suspicious: bool = False


_LINK_NAMES = frozenset(("@odata.nextlink", "odata.nextlink", "nextpagelink", "nextlink"))
_COUNT_NAMES = frozenset(("@odata.count", "odata.count", "count"))


def open_envelope(document: Document, *, what: str, single: bool | None = False) -> Envelope:
    """The records inside an answer, whichever of the API's envelopes it uses.

    Known are {"value": [..]}, {"Items": [..], "NextPageLink", "Count"} (names in any case), a bare array, and for
    endpoints that answer one object (`single`) that object, bare or as the only element of a list.

    Args:
        document: The opened body.
        what: The resource's name, for the message.
        single: Whether one object is expected; None takes an object as well as a list.

    Raises:
        UnknownEnvelope: another shape; the message names its keys and none of its data.
    """
    top = document.top
    if isinstance(top, list):
        return _checked(_list_envelope("array", document.masked, top, document), what, single)
    if isinstance(top, Raw):
        raise UnknownEnvelope(
            f"{what}: the API answered a bare {_kind(bytes(top))} instead of records. "
            "Check the endpoint's path with `trialsync-etl doctor`."
        )
    by_name = {name.lower(): raw for name, raw in top.items()}
    for shape in ("value", "items"):
        raw = by_name.get(shape)
        if raw is None or bytes(raw)[:1] not in (b"[", b"n"):
            continue
        if single and not by_name.keys() <= _LINK_NAMES | _COUNT_NAMES | {"value", "items", "@odata.context"}:
            continue  # one object that happens to have a field of this name
        array = bytes(raw) if bytes(raw)[:1] == b"[" else b"[]"
        envelope = _list_envelope(shape, array, msgspec.json.decode(array, type=list[Raw]), document)
        for name, value in by_name.items():
            if name in _LINK_NAMES:
                envelope.speaks_of_links = True
                envelope.link = envelope.link or _text(value)
            elif name in _COUNT_NAMES:
                digits = bytes(value).strip(b'"')
                envelope.count = int(digits) if digits.isdigit() and len(digits) < 19 else envelope.count
        return _checked(envelope, what, single)
    if single is not False:
        whole = document.masked.strip()
        return _list_envelope("single", b"[" + whole + b"]", [Raw(whole)], document)
    raise UnknownEnvelope(
        f"{what}: the API answered an object with the keys {_names(top)}, where a list, 'value' or 'Items' was "
        "expected. Check the endpoint's path with `trialsync-etl doctor`."
    )


def _checked(envelope: Envelope, what: str, single: bool | None) -> Envelope:
    """The envelope, unless it lists several records where one object was expected."""
    if single and len(envelope.raws) > 1:
        raise UnknownEnvelope(
            f"{what}: the API answered a list of {len(envelope.raws)} records where one object was expected. "
            "Check the endpoint's path with `trialsync-etl doctor`."
        )
    return envelope


def _list_envelope(shape: Any, array: bytes, raws: list[Raw], document: Document) -> Envelope:
    """An envelope whose records are the original bytes, also where the array decoded is the masked one."""
    if document.masked is not document.text:
        # Records come in order, so each is found at or after the end of the one before.
        position = 0 if shape == "single" else document.masked.find(array)
        originals = []
        for raw in raws:
            position = document.masked.find(bytes(raw), position)
            originals.append(Raw(document.text[position : position + len(bytes(raw))]))
            position += len(bytes(raw))
        raws = originals
    return Envelope(shape, raws, array, suspicious=document.suspicious)


def _kind(raw: bytes) -> str:
    """What a JSON value is, in a word."""
    return {b'"': "string", b"n": "null", b"t": "boolean", b"f": "boolean"}.get(raw[:1], "number")


def _names(top: dict[str, Raw]) -> str:
    """Field names for a message: at most ten, and only those that look like names and not like data."""
    names = [name for name in top if re.fullmatch(r"[@A-Za-z_][\w.@]{0,39}", name)][:10]
    return ", ".join(repr(name) for name in names) + (" …" if len(names) < len(top) else "")


def _text(raw: Raw) -> str | None:
    """A JSON string's value; None for anything else and for an empty one."""
    value = bytes(raw)
    if not value.startswith(b'"'):
        return None
    try:
        return msgspec.json.decode(value, type=str).strip() or None
    except msgspec.MsgspecError:
        return None
