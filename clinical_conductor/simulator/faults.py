"""What can go wrong, by name."""

from __future__ import annotations

from typing import Any

from clinical_conductor.simulator.api import Answer, Api, Request
from clinical_conductor.simulator.world import World


class Fault:
    """One injected fault."""


class Faults:
    """All injected faults."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def add(self, kind: str, api: Api, **options: Any) -> Fault:
        """Inject a fault."""
        raise NotImplementedError(kind)

    def clear(self, api: Api) -> None:
        """Remove all faults."""

    def before(self, request: Request) -> Answer | None:
        """Before the request is looked at."""
        return None

    def opened(self, request: Request) -> Answer | None:
        """When the path and the query are known."""
        return None

    def after(self, request: Request, answer: Answer, world: World) -> Answer:
        """On the answer's way out."""
        return answer
