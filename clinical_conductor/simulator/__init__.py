"""A faithful Clinical Conductor API for the demo, the tests and the benchmarks. Nothing in it is anybody's data.

shapes.py      what an instance holds: tables, fields, sizes        pools.py  the words records are made of
routes.py      the paths, and which table stands behind each
templates.py   shapes → functions that write records fast           relations.py  names, previews, dates that agree
world.py       what exists now; time, edits, deletions
odata.py       $filter, $orderby, $skip, $top, $count
api.py         request → answer: key, paths, envelopes              faults.py  everything that goes wrong in life
document.py    what the instance says of itself, as an OpenAPI document
server.py      HTTP                                                 simulator.py, process.py  the handles
"""

from __future__ import annotations

from clinical_conductor.simulator.api import Behaviour
from clinical_conductor.simulator.process import SimulatorProcess
from clinical_conductor.simulator.simulator import Simulator, serve
from clinical_conductor.simulator.world import EPOCH

__all__ = ["EPOCH", "Behaviour", "Simulator", "SimulatorProcess", "serve"]
