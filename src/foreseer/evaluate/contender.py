"""A way to sample: what a comparison or a bench runs, whoever made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from foreseer.attach.accelerate import accelerate
from foreseer.attach.handle import Handle
from foreseer.plan import Policy


@dataclass(frozen=True)
class Contender(ABC):
    """A way to sample. What it puts on the pipeline it takes off again, whatever happens.

    Attributes:
        name: short, unique among the ways at one budget; what is typed.
        title: what tables print.
        steps: steps that the scheduler is asked for.
        budget: network evaluations that were asked for; ``None`` where the published setting decides.
        settings: its parameters, as reports show them.
    """

    name: str
    title: str
    steps: int
    budget: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def attached(self, pipe: Any) -> Any:
        """A context manager around one or more runs of ``pipe``; gives a handle where Foreseer is attached."""


@dataclass(frozen=True)
class Accelerated(Contender):
    """A policy of ours attached."""

    policy: Policy = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Attach the policy."""
        with accelerate(pipe, self.policy) as handle:
            yield handle


@dataclass(frozen=True)
class Unaccelerated(Contender):
    """Every one of ``steps`` steps computed: the reference, or step reduction."""

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Attach nothing."""
        yield None
