"""What a page shares with the page before it: proof that no record lies between them, and not to be served twice."""

from __future__ import annotations

from collections import Counter

from clinical_conductor.records import Rows, content_hash


def ascending(*pages: Rows) -> bool:
    """Whether numeric keys go up, within one page or from one to the next.

    Keys of other kinds have an order of the server's own, which nobody here knows.
    """
    keys: list[str | None]
    if len(pages) == 2:
        keys, literals = [pages[0].keys[-1], pages[1].keys[0]], [*(p.literals[-1:] for p in pages if p.literals)]
        numeric = all(text[:1] != b'"' for some in literals for text in some)
    else:
        keys, numeric = pages[0].keys, all(text[:1] != b'"' for text in pages[0].literals or ())
    try:
        numbers = [int(key) for key in keys] if numeric else []  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return numbers == sorted(numbers)


def follows(before: Rows, rows: Rows) -> bool:
    """Whether a page can be what `id ge last` asked for: it begins with the last key and goes up from there."""
    last = before.keys[-1]
    shared = set(before.keys).intersection(rows.keys) - {last}
    return (
        rows.keyed
        and not shared
        and (rows.keys[0] == last or last not in rows.keys)
        and ascending(rows)
        and ascending(before, rows)
    )


def again_under_last_key(before: Rows, rows: Rows, overlap: int) -> set[int]:
    """Which of the first `overlap` rows, all keyed as the page before ended, are those that ended it."""
    last = before.keys[-1]
    tail = next((i for i, key in enumerate(reversed(before.keys)) if key != last), len(before))
    if overlap <= tail:
        return set(range(overlap))
    seen = Counter(content_hash(raw) for raw in before.raws[-tail:])
    known = set()
    for i in range(overlap):
        digest = content_hash(rows.raws[i])
        if seen[digest] > 0:
            seen[digest] -= 1
            known.add(i)
    return known


def again_at_start(before: Rows, rows: Rows) -> set[int]:
    """How a page begins with what was served: rows moved down while they were read. Empty where it does not."""
    identities = rows.identities()
    if not identities or identities[0] not in before.identities():
        return set()
    seen = {content_hash(raw) for raw in before.raws}
    again: set[int] = set()
    while len(again) < len(rows) and content_hash(rows.raws[len(again)]) in seen:
        again.add(len(again))
    return again


def again_anywhere(before: Rows, rows: Rows) -> set[int]:
    """Which rows of a page were on the page before."""
    known = set(before.identities())
    return {i for i, identity in enumerate(rows.identities()) if identity in known}
