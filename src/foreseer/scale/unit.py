"""Units of work, and the tasks that they belong to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreseer.scale.worker import Worker


@dataclass(frozen=True)
class Unit:
    """One independent piece of a job.

    Args:
        name: unique in the job; letters, digits and hyphens, because results are stored under it.
        payload: plain data that the task needs for this unit (a prompt, a seed).
        fingerprint: digest of everything that the result depends on; a stored result of another one is not used.
        cost: expected duration in any unit; expensive units start first. Equal costs keep the units' order.
        home: units with the same home go to the worker that ran the first of them, because it still holds what they
            need. ``None`` for any worker.
    """

    name: str
    payload: Any = field(default=None, repr=False)
    fingerprint: str = ""
    cost: float = 1.0
    home: str | None = None


class Task(ABC):
    """What workers do with each unit of a job.

    A task is plain data that can be pickled: it names the pipeline (:class:`foreseer.scale.Model`) and never holds it.
    """

    @abstractmethod
    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Do one unit and return its result.

        The bytes must not depend on the worker, on the units before it, or on how often the unit ran.
        """


@dataclass(frozen=True)
class Failure:
    """Why a unit has no result.

    Attributes:
        unit: name of the unit.
        reason: the error in one line.
        place: host and process of the worker.
        error: the exception, where it can be raised again in this process.
        worker_lost: whether the worker died, or cannot be trusted any more (out of memory, a CUDA error).
    """

    unit: str
    reason: str
    place: str = ""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    worker_lost: bool = False


def sum_up(failures: list[Failure], total: int) -> str:
    """One sentence per kind of failure, instead of one line per unit.

    >>> print(sum_up([Failure("a", "no memory"), Failure("c", "no memory"), Failure("b", "bad size")], 64))
    3 of 64 units failed: no memory (2 units: a, c); bad size (1 unit: b)
    """
    by_reason: dict[str, list[str]] = {}
    for failure in failures:
        by_reason.setdefault(failure.reason, []).append(failure.unit)
    parts = []
    for reason, units in by_reason.items():
        shown = ", ".join(units[:3]) + (", ..." if len(units) > 3 else "")
        parts.append(f"{reason.rstrip('.')} ({len(units)} unit{'s' if len(units) > 1 else ''}: {shown})")
    return f"{len(failures)} of {total} units failed: {'; '.join(parts)}"
