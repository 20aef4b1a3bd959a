"""The tree of errors: drawn as it is, grouped by recovery, and safe to print."""

from __future__ import annotations

import inspect
import re

import pytest

from clinical_conductor import errors
from clinical_conductor.errors import FatalError, RetriableError, ServerTrouble, SkippableError, TrialSyncError

CLASSES = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, TrialSyncError)
}


def drawn_tree() -> dict[str, str]:
    """Child → parent, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"( {4}[ │├└─]*)([A-Z]\w+(?:Error|\w*))(?=\s{2,}|$)", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        while above and above[-1][0] >= indent:
            above.pop()
        if above:
            parents[name] = above[-1][1]
        above.append((indent, name))
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {name: kind.__mro__[1].__name__ for name, kind in CLASSES.items() if kind is not TrialSyncError}
    assert drawn_tree() == real


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_each_error_has_one_way_of_recovery_and_someone_to_look(kind: type[TrialSyncError]) -> None:
    groups = [group for group in (RetriableError, SkippableError, FatalError) if issubclass(kind, group)]
    assert len(groups) == (0 if kind is TrialSyncError else 1)
    assert kind.category in {"api", "database", "data", "configuration", "system"}
    assert kind.__doc__


def test_a_retriable_error_may_know_when_to_come_back() -> None:
    assert ServerTrouble("studies: 503.").retry_after is None
    assert ServerTrouble("studies: 503.", retry_after=2.5).retry_after == 2.5
