"""All that is held to a limit, in one run and one table: `python -m benchmarks [--quick]`, or `nox -s bench`.

Takes about ten minutes. One that breaks is named, after the others had their turn. `--quick` tries everything at small
sizes in two minutes or three; what it costs to begin counts for much there, so its limits are shown and not held.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from benchmarks import engine, fan_out, rate, warehouse
from benchmarks.table import Row, end, say


def main() -> int:
    """Measure everything and print the table; 1 if a limit was missed or something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; limits are not held")
    parser.add_argument("--large", type=int, help="records of the load that shows memory; 0 leaves it out")
    given = parser.parse_args()
    quick = given.quick
    large = given.large if given.large is not None else 20_000 if quick else 2_000_000
    parts: dict[str, Callable[[], list[Row]]] = {
        "engine": partial(engine.rows, 10_000 if quick else 200_000, large),
        "fan_out": partial(fan_out.rows, 1_000 if quick else 20_000),
        "warehouse": partial(warehouse.rows, 50_000 if quick else 1_000_000),
        "rate": partial(rate.rows, 4.0 if quick else 20.0),
    }
    began = time.monotonic()
    rows: list[Row] = []
    broken = []
    for name, measure in parts.items():
        say(f"-- {name}, after {time.monotonic() - began:.0f} s")
        try:
            rows += measure()
        except Exception:  # noqa: BLE001 (the others shall have their turn)
            traceback.print_exc()
            broken.append(name)
    missed = end(rows, held=not quick)
    say(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all.")
    if broken:
        say(f"Broken, see above: {', '.join(broken)}.")
    return int(missed or bool(broken))


if __name__ == "__main__":
    sys.exit(main())
