"""Turns a record shape (shapes.py) into a function that writes records fast.

A shape is text: `name=kind` for a field, `name={ .. }` for an object, `name=[{ .. }]` for a list of one object; a `?`
before `=` makes an object of drawn fields null in some of the records, and before a kind the value. Kinds are of two
sorts:

- Drawn kinds take their value from a pool. Neighbouring ones are written together, once, in a few hundred variants, and
  a record picks one of them: that is what makes twenty thousand records a second possible. A `~` before the kind puts
  it among the values that change when the record is edited upstream.
- Computed kinds (`key`, `uid`, `@table`, `#name`) are worked out for every record.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

from clinical_conductor.simulator.pools import POOLS, WORDS

Compute: TypeAlias = Callable[[int, int, int], bytes]
"""(ordinal, hash, version) → JSON."""
Piece: TypeAlias = "bytes | Compute"

VARIANTS = 199
_OPEN = re.compile(r"(\w+)(\??)=(\[?)\{")
_FIELD = re.compile(r"(\w+)(\??)=(\S+)")


def mix(number: int) -> int:
    """A number's 64-bit hash: one to one, so distinct numbers stay distinct."""
    number &= 0xFFFFFFFFFFFFFFFF
    number = ((number ^ (number >> 31)) * 0x7FB5D329728EA185) & 0xFFFFFFFFFFFFFFFF
    number = ((number ^ (number >> 27)) * 0x81DADEF4BC2DD44D) & 0xFFFFFFFFFFFFFFFF
    return number ^ (number >> 33)


def drawn(kind: str, rng: random.Random) -> bytes:
    """One value of a drawn kind, as JSON.

    >>> rng = random.Random(1)
    >>> drawn("null", rng), drawn("Check|Cash", rng), drawn("int:3..3", rng)
    (b'null', b'"Check"', b'3')
    """
    if kind.startswith("?"):
        return b"null" if rng.random() < 0.4 else drawn(kind[1:], rng)
    name, _, rest = kind.partition(":")
    draw = _DRAW.get(name)
    # What is no known kind is the value itself, or several to choose from; "_" stands for a blank.
    value = draw(rng, *rest.split("..")) if draw else rng.choice(kind.split("|")).replace("_", " ")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _date(rng: random.Random, low: str, high: str) -> str:
    return f"{rng.randint(int(low), int(high))}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T00:00:00"


def _guid(rng: random.Random, _: str) -> str:
    return f"{rng.getrandbits(32):08x}-{rng.getrandbits(16):04x}-4000-8000-{rng.getrandbits(48):012x}"


_DRAW: dict[str, Callable[..., object]] = {
    "null": lambda _rng, _: None,
    "true": lambda _rng, _: True,
    "false": lambda _rng, _: False,
    "list": lambda _rng, _: [],
    "flag": lambda rng, _: rng.random() < 0.5,
    "int": lambda rng, low, high: rng.randint(int(low), int(high)),
    "money": lambda rng, low, high: rng.randint(int(low) * 20, int(high) * 20) / 20,
    "date": _date,
    "time": lambda rng, low, high: (
        f"{_date(rng, low, high)[:10]}T{rng.randint(8, 17):02}:{rng.choice((0, 15, 30, 45)):02}:00"
    ),
    "words": lambda rng, low, high: " ".join(rng.choices(WORDS, k=rng.randint(int(low), int(high)))).capitalize(),
    "digits": lambda rng, count: "".join(rng.choices("0123456789", k=int(count))),
    "phone": lambda rng, _: f"(555) 01{rng.randint(0, 9)}-{rng.randint(0, 9999):04}",
    "email": lambda rng, _: f"{rng.choice(WORDS)}{rng.randint(1, 99_999)}@example.org",
    "guid": _guid,
    "pool": lambda rng, name: rng.choice(POOLS[name]),
    "pools": lambda rng, name: rng.sample(POOLS[name], rng.randint(0, 2)),
}
"""The drawn kinds that are no literal, each with the parts of what follows its colon."""


def computed(kind: str) -> bool:
    """Whether a kind is worked out for every record."""
    return kind in ("key", "uid") or kind[0] in "@#"


def properties(shape: str) -> Iterator[tuple[str, str]]:
    """Every scalar property of a shape with its kind; nested ones as OData writes them, `study/id`.

    >>> list(properties("id=key site={ name=words:1..2 } tags=[{ id=int:1..9 }]"))
    [('id', 'key'), ('site/name', 'words:1..2')]
    """
    path: list[str] = []
    lists = 0
    for token in shape.split():
        if opened := _OPEN.fullmatch(token):
            path.append(opened[1])
            lists += bool(opened[3]) or bool(lists)
        elif token in ("}", "}]"):
            path.pop()
            lists -= bool(lists)
        elif (field := _FIELD.fullmatch(token)) and not lists:
            kind = field[3].lstrip("~?")
            if not kind.startswith(("pools:", "list")):
                yield "/".join([*path, field[1]]), kind


def compile_shape(shape: str, seed: str, resolve: Callable[[str], Compute]) -> Compute:
    """The function that writes a shape's records; `resolve` gives the function of each computed kind.

    Raises:
        ValueError: the shape is not well formed.
    """
    pieces = [resolve(piece) if isinstance(piece, str) else piece for piece in _pieces(shape, seed)]
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and merged and isinstance(merged[-1], bytes):
            merged[-1] += piece
        else:
            merged.append(piece)
    calls = [piece if callable(piece) else None for piece in merged]
    fixed = [piece if isinstance(piece, bytes) else b"" for piece in merged]
    slots = [(i, call) for i, call in enumerate(calls) if call is not None]

    def write(ordinal: int, h: int, version: int) -> bytes:
        parts = fixed.copy()
        for i, call in slots:
            parts[i] = call(ordinal, h, version)
        return b"".join(parts)

    return write


@lru_cache(maxsize=512)
def _pieces(shape: str, seed: str) -> tuple[Piece | str, ...]:
    """Fixed bytes, functions and computed kinds, in the order of the record."""
    return tuple(_cut(shape, seed))


def _cut(shape: str, seed: str) -> Iterator[Piece | str]:
    """The shape cut where a computed or a changeable field begins; each run of drawn fields is one function."""
    rng = random.Random(seed)
    run: list[str] = []
    mutable = False
    block = 0

    def flush() -> Iterator[Piece]:
        nonlocal block
        if run:
            block += 1
            yield _block(list(run), mutable, block, rng)
            run.clear()

    for token, needs_comma in _commas(shape):
        comma = "," if needs_comma else ""
        field = _FIELD.fullmatch(token) if not _OPEN.fullmatch(token) else None
        if field and computed(field[3].lstrip("~?")):
            yield from flush()
            yield f'{comma}"{field[1]}":'.encode()
            yield field[3]
            continue
        changes = bool(field and field[3].startswith("~"))
        if changes != mutable:
            yield from flush()
            mutable = changes
        run.append(comma + token)
    yield from flush()


def _commas(shape: str) -> Iterator[tuple[str, bool]]:
    """The shape's tokens, braces included, each with whether a comma goes before it."""
    first = [True]
    yield "{", False
    for token in shape.split():
        closing = token in ("}", "}]")
        yield token, not closing and not first[-1]
        if closing:
            first.pop()
        else:
            first[-1] = False
            if token.endswith("{"):
                first.append(True)
    if len(first) != 1:
        raise ValueError("a brace of the shape is not closed")
    yield "}", False


def _block(tokens: list[str], mutable: bool, number: int, rng: random.Random) -> Piece:
    """All variants of a run of drawn fields, and the function that picks one."""
    variants = [_draw_run(tokens, rng) for _ in range(VARIANTS)]
    if len(set(variants)) == 1:
        return variants[0]
    shift = number * 7 % 53
    if mutable:
        # A new version must look new: values that happen to be equal would hide an edit.
        distinct = list(dict.fromkeys(variants))
        count = len(distinct)
        return lambda _o, h, version: distinct[((h >> shift) + version) % count]
    return lambda _o, h, _v: variants[(h >> shift) % VARIANTS]


def _draw_run(tokens: list[str], rng: random.Random) -> bytes:
    out: list[bytes] = []
    absent = 0  # how many braces deep we are in an object that is null this time
    for text in tokens:
        comma = b"," if text.startswith(",") else b""
        token = text.removeprefix(",")
        if absent:
            absent += token.endswith("{") - token.startswith("}")
        elif token in ("{", "}", "}]"):
            out.append(token.encode())
        elif opened := _OPEN.fullmatch(token):
            absent = bool(opened[2]) and rng.random() < 0.6
            out.append(comma + f'"{opened[1]}":'.encode() + (b"null" if absent else f"{opened[3]}{{".encode()))
        elif field := _FIELD.fullmatch(token):
            out.append(comma + f'"{field[1]}":'.encode() + drawn(field[3].lstrip("~"), rng))
        else:
            raise ValueError(f"{token!r} is not a field of a shape")
    if absent:
        raise ValueError("an object that may be null holds drawn fields only, none of them changeable")
    return b"".join(out)
