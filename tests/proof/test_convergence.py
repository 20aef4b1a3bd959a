"""The promise that everything else serves: whatever happens while pages are read, staging ends up equal to the source.

Hypothesis makes up an instance (its paging, envelopes, ids, page sizes, what it refuses or ignores) and a schedule of
what happens between any two requests: records appear, change and vanish, answers break. Then nothing more happens, one
more sync has to make staging equal to the simulator's truth, and one after that has to write nothing.

TRIALSYNC_PROOF=nightly tries 300 of them. Every failure that was ever found stands below as an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from clinical_conductor import reading, syncing
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.fixtures.pipeline import Pipeline

NIGHTLY = os.environ.get("TRIALSYNC_PROOF") == "nightly"
LISTINGS = ("studies", "rooms", "subject_statuses")
CHILDREN = ("subjects", "study_arms")
ALL = (*LISTINGS, *CHILDREN)
HOSTILE = (
    "ignore-skip",
    "ignore-paging",
    "ignore-filter",
    "ignore-orderby",
    "reject-filter",
    "reject-orderby",
    "reject-count",
    "reject-top",
    "cap",
)
BREAKS = ("error", "reset", "truncate", "html", "duplicate-page", "throttle", "delete-between-pages")


@dataclass(frozen=True)
class Event:
    """Something that happens upstream just before the n-th request of a run is answered."""

    at: int
    what: str
    """insert, change, or delete."""
    resource: str
    which: int
    """Chooses the record, and a new record's parent."""


@dataclass(frozen=True)
class Break:
    """An answer that goes wrong once; the client asks again."""

    kind: str
    resource: str
    after: int


@dataclass(frozen=True)
class Scenario:
    """An instance and what happens to it."""

    ids: str = "number"
    envelope: str = "spec"
    next_links: str = "absolute"
    over_max: str = "reject"
    modified_date: bool = True
    odata: bool = True
    hostile: frozenset[str] = frozenset()
    page_size: int = 5
    threads: int = 1
    seed: int = 1
    events: tuple[Event, ...] = ()
    breaks: tuple[Break, ...] = ()


events = st.builds(
    Event,
    at=st.integers(1, 60),
    what=st.sampled_from(["insert", "change", "delete"]),
    resource=st.sampled_from(ALL),
    which=st.integers(0, 200),
)
breaks = st.builds(Break, kind=st.sampled_from(BREAKS), resource=st.sampled_from(ALL), after=st.integers(0, 8))
scenarios = st.builds(
    Scenario,
    ids=st.sampled_from(["number", "string", "guid"]),
    envelope=st.sampled_from(["spec", "items", "items-lower", "value", "array"]),
    next_links=st.sampled_from(["absolute", "relative", "empty", "none"]),
    over_max=st.sampled_from(["reject", "cut"]),
    modified_date=st.booleans(),
    odata=st.sampled_from([True, True, True, False]),
    hostile=st.frozensets(st.sampled_from(HOSTILE), max_size=2),
    page_size=st.integers(3, 40),
    threads=st.sampled_from([1, 1, 4]),
    seed=st.integers(1, 5),
    events=st.lists(events, max_size=8).map(tuple),
    breaks=st.lists(breaks, max_size=3).map(tuple),
)


@dataclass
class Schedule:
    """Lets events happen as the requests of one run come in."""

    simulator: Simulator
    events: tuple[Event, ...]
    running: bool = False
    seen: int = 0
    inserted: Iterator[int] = field(default_factory=lambda: count(1))

    def __call__(self, request: Request) -> None:
        """A request came in."""
        if not self.running:
            return
        world = self.simulator.world
        with world.lock:
            self.seen += 1
            for event in self.events:
                if event.at == self.seen:
                    self.happen(event)

    def happen(self, event: Event) -> None:
        """One event, to a record that exists now."""
        world, name = self.simulator.world, event.resource
        rows = world.tables[name]
        if event.what == "insert":
            above = rows.parent.of(None) if rows.parent else [0]
            if above:
                world.insert(name, above[event.which % len(above)], {"description": "new"})
            return
        there = rows.of(None)
        if not there:
            return
        row = there[event.which % len(there)]
        if event.what == "delete":
            world.delete(name, row)
        else:
            world.edit(name, row, {"comment": f"change {event.at}"})


def served(simulator: Simulator, resource: str) -> dict[int, bytes]:
    """The records that are served now, by what stays the same of them however they change."""
    world = simulator.world
    with world.lock:
        rows = world.tables[resource]
        return {row: rows.record(row) for row in rows.of(None)}


def check(scenario: Scenario, make: Callable[..., Pipeline], patch: pytest.MonkeyPatch) -> None:
    """One scenario from the first run to the one that writes nothing."""
    patch.setattr(reading, "FAN_OUT_THREADS", scenario.threads)
    patch.setattr(syncing, "CURSOR_PAGES", 0)  # however short the listing, its cursor is used
    with Simulator(
        0.0001,
        scenario.seed,
        ids=scenario.ids,  # type: ignore[arg-type]
        modified_date=scenario.modified_date,
        envelope=scenario.envelope,
        next_links=scenario.next_links,
        over_max=scenario.over_max,
        odata=scenario.odata,
    ) as simulator:
        schedule = Schedule(simulator, scenario.events)
        simulator.on_request(schedule)
        pipeline = make(simulator, batch_size=scenario.page_size, parallel_jobs=1)

        def be_hostile() -> None:
            for kind in sorted(scenario.hostile):
                simulator.fault(kind, **({"limit": 7} if kind == "cap" else {}))

        def sync(*names: str, **options: Any) -> None:
            """A run in peace: it succeeds with all that is served, or says that it cannot."""
            results = pipeline.run(*names, parallel=1, allow_mass_delete=True, **options)
            for name, result in results.items():
                note(f"{name}: {result.status} {result.error or ''} {result.warning or ''}")
                difference = pipeline.difference(name)
                if result.status == "success":
                    assert difference.missing == 0, (name, difference, result.warning)
                    assert not difference or "complete" in (result.warning or ""), (name, difference, result.warning)
                else:
                    assert scenario.hostile, (name, result.error)
                    assert result.error_type in ("PagingBroken", "ParentFailed", "DependencyFailed", "BadRequest"), (
                        result.error
                    )

        be_hostile()
        sync(*ALL)

        for broken in scenario.breaks:
            options = {"seconds": 0} if broken.kind == "throttle" else {}
            simulator.fault(broken.kind, resource=broken.resource, after=broken.after, count=1, **options)
        there = {name: served(simulator, name) for name in LISTINGS}
        held = {name: not pipeline.difference(name).missing for name in LISTINGS}
        schedule.running = True
        pipeline.run(*ALL, parallel=1)
        schedule.running = False
        for name in LISTINGS:
            # Nothing was deleted that was there all the time.
            if held[name]:
                lasting = there[name].items() & served(simulator, name).items()
                lost = pipeline.difference(name, [("", record) for _, record in lasting]).missing
                assert lost == 0, f"{name}: {lost} rows were deleted that were served all the time"

        simulator.faults.clear(simulator.api)
        be_hostile()
        sync(*LISTINGS)
        sync(*CHILDREN, full_refresh=True)
        before = pipeline.written(*ALL)
        sync(*ALL)
        assert pipeline.written(*ALL) == before
        assert pipeline.unsound() == []
        assert pipeline.left_over() == []


@pytest.fixture(scope="module")
def neighbour(new_instance: Callable[..., Pipeline]) -> Pipeline:
    """Another instance in the same database."""
    with Simulator(0.0001, 9) as simulator:
        pipeline = new_instance(simulator)
        pipeline.run(*ALL)
    return pipeline


@settings(
    max_examples=300 if NIGHTLY else 12,
    deadline=None,
    derandomize=not NIGHTLY,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink) if NIGHTLY else (Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@example(scenario=Scenario())
@given(scenario=scenarios)
def test_whatever_happens_staging_ends_up_equal(
    new_instance: Callable[..., Pipeline], neighbour: Pipeline, monkeypatch: pytest.MonkeyPatch, scenario: Scenario
) -> None:
    before = neighbour.written(*ALL)
    check(scenario, new_instance, monkeypatch)
    assert neighbour.written(*ALL) == before
