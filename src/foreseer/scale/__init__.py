"""Where work runs: in this process, in processes on this machine, or on the machines of a Ray cluster.

A job is a list of *units* of one *task*. A unit is independent, gives the same bytes wherever and however often it
runs, and is done once its result is stored. A *place* starts *workers*; :func:`run_units` hands units to them, repeats
those whose worker was lost, and returns the results in the order of the units.
"""

from foreseer.errors import ScaleError
from foreseer.scale.cluster import Ray
from foreseer.scale.here import Here
from foreseer.scale.model import LiveModel, Model, model_of
from foreseer.scale.place import Place
from foreseer.scale.processes import Processes
from foreseer.scale.unit import Failure, Task, Unit
from foreseer.scale.unit_store import FolderStore, MemoryStore, Store
from foreseer.scale.units import run_units
from foreseer.scale.worker import Worker
from foreseer.scale.workers_option import place_of

__all__ = [
    "Failure",
    "FolderStore",
    "Here",
    "LiveModel",
    "MemoryStore",
    "Model",
    "Place",
    "Processes",
    "Ray",
    "ScaleError",
    "Store",
    "Task",
    "Unit",
    "Worker",
    "model_of",
    "place_of",
    "run_units",
]
