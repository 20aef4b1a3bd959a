"""Children of many parents, without a rate limit, against a hand-written fan-out (by_hand.py).

    python -m benchmarks.fan_out [--parents 20000]

A first pass over all patients, a second with nothing changed, and one after a hundredth of the patients changed, each
of them with a child. The hand-written side has no ledger of parents, so it asks all of them every time. The listing of
the patients, which both sides need, is not counted on either; it is in engine.py.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.sides import Ground, ground
from benchmarks.table import Row, against, end, figure, say
from clinical_conductor.database import connect

CHILDREN = "patient_medications"
LIMITS = {"first pass": 1.25, "nothing changed": 0.15, "1 % of parents changed": 0.25}


def rows(parents: int = 20_000) -> list[Row]:
    """Measure the three passes."""
    found = []
    with ground(parents) as place:
        place.measure("by_trialsync", "patients")
        for what, most in LIMITS.items():
            if what.startswith("1 %"):
                change(place, parents)
                place.measure("by_trialsync", "patients")
            hand = place.measure("by_hand", CHILDREN)
            ours = place.measure("by_trialsync", CHILDREN)
            name = f"fan-out over {parents:,} parents, {what}"
            say(f"{name}: by hand {figure(hand['seconds'], 's')}, TrialSync {figure(ours['seconds'], 's')}")
            check(place, name)
            remark = f"{hand['requests']:,} requests by hand, {ours['requests']:,} by TrialSync"
            found.append(against(name, hand["seconds"], ours["seconds"], most=most, remark=remark))
    return found


def change(place: Ground, parents: int) -> None:
    """Every hundredth patient changes, and so does the first child."""
    with connect(place.url) as conn:
        chosen = conn.execute(
            "select p.source_id, min(c.source_id) from dim_patients_staging as p "
            "inner join dim_patient_medications_staging as c on c.parent_source_id = p.source_id "
            "group by p.source_id, p.id order by p.id limit %s",
            (max(1, parents // 100),),
        ).fetchall()
    for patient, child in chosen:
        place.simulator.edit("patients", "", patient, preferredName="Changed")
        place.simulator.edit(CHILDREN, patient, child, comment="Changed")


def check(place: Ground, what: str) -> None:
    """Both sides hold the same.

    Raises:
        RuntimeError: they do not.
    """
    with connect(place.url) as conn:
        row = conn.execute(
            "select count(*) from by_hand_children as h full join dim_patient_medications_staging as s "
            "on s.parent_source_id = h.parent_id and s.source_id = h.source_id where s.data is distinct from h.data"
        ).fetchone()
    if row != (0,):
        raise RuntimeError(f"{what}: {row} records differ between the two sides.")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", type=int, default=20_000)
    return end(rows(parser.parse_args().parents))


if __name__ == "__main__":
    sys.exit(main())
