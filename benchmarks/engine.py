"""Listings: initial load, unchanged re-read and one per cent changed, against COPY + upsert (by_hand.py); memory.

    python -m benchmarks.engine [--records 200000] [--large 2000000]

Both sides read patients over HTTP from one simulator and write to one PostgreSQL, in turns, each in a process of its
own. The initial load is repeated with a larger number of records, to see whether memory stays flat.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.sides import Ground, ground
from benchmarks.table import Row, against, end, figure, say

LIMITS = {"initial load": 1.5, "unchanged re-read": 0.5, "1 % changed": 0.5}
MEGABYTES = 300.0


def rows(records: int = 200_000, large: int = 2_000_000) -> list[Row]:
    """Measure both sizes; `large` may be 0."""
    found: list[Row] = []
    memory: list[Row] = []
    with ground(records) as place:
        for what, most in LIMITS.items():
            if what == "1 % changed":
                place.simulator.advance(days=1, change=0.01)
            hand, ours = both(place, f"{what}, {records:,} records")
            found.append(against(f"{what}, {records:,} records", hand["seconds"], ours["seconds"], most=most))
            if not memory:
                memory.append(peak(records, hand, ours))
    if large:
        with ground(large) as place:
            hand, ours = both(place, f"initial load, {large:,} records")
        found.append(
            against(f"initial load, {large:,} records", hand["seconds"], ours["seconds"], most=LIMITS["initial load"])
        )
        memory.append(peak(large, hand, ours))
    return found + memory


def both(place: Ground, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hand-written side's figures and ours.

    Raises:
        RuntimeError: they did not read the same number of records.
    """
    hand = place.measure("by_hand", "patients")
    ours = place.measure("by_trialsync", "patients")
    say(f"{what}: by hand {figure(hand['seconds'], 's')}, TrialSync {figure(ours['seconds'], 's')}")
    if hand["rows"] != ours["rows"]:
        raise RuntimeError(f"{what}: {hand['rows']} rows by hand, {ours['rows']} by TrialSync.")
    return hand, ours


def peak(records: int, hand: dict[str, Any], ours: dict[str, Any]) -> Row:
    """The row of an initial load's peak memory."""
    return Row(
        f"peak memory, {records:,} records",
        figure(ours["megabytes"], "MB"),
        figure(hand["megabytes"], "MB"),
        ours["megabytes"] / hand["megabytes"],
        f"≤ {MEGABYTES:g} MB",
        ours["megabytes"] <= MEGABYTES,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--large", type=int, default=2_000_000, help="records of the larger load; 0 leaves it out")
    given = parser.parse_args()
    return end(rows(given.records, given.large))


if __name__ == "__main__":
    sys.exit(main())
