"""The one table: a row per measurement, what it may come to, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line: what was measured, both sides' figures with their units, what is allowed."""

    what: str
    ours: str
    hand: str = ""
    ratio: float | None = None
    limit: str = ""
    met: bool = True
    remark: str = ""


def against(
    what: str, hand: float, ours: float, *, unit: str = "s", most: float | None = None, remark: str = ""
) -> Row:
    """Both sides measured: a row held to `most` times what the hand-written side took."""
    ratio = ours / hand
    return Row(
        what,
        figure(ours, unit),
        figure(hand, unit),
        ratio,
        "" if most is None else f"≤ {most:g} ×",
        most is None or ratio <= most,
        remark,
    )


def figure(value: float, unit: str) -> str:
    """A measured value as the table shows it, with two or three digits: 0.34 s, 17.2 s, 198 MB."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def end(rows: Sequence[Row], *, held: bool = True) -> int:
    """Print the table; 1 if a limit was missed, unless limits are only shown."""
    print("\n| what | by hand | TrialSync | ratio | limit | remark |\n|---|---:|---:|---:|---:|---|")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        limit = row.limit if row.met or not held else f"**missed: {row.limit}**"
        print(f"| {row.what} | {row.hand} | {row.ours} | {ratio} | {limit} | {row.remark} |")
    missed = [row.what for row in rows if not row.met]
    if missed:
        print(f"\n{'Missed' if held else 'Missed, and not held at these sizes'}: {'; '.join(missed)}.")
    return int(held and bool(missed))
