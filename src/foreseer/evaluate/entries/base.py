"""Abstract entry of a bench, and the entries that need nothing but Foreseer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreseer.attach.handle import Handle


@dataclass(frozen=True)
class Entry(ABC):
    """A way to sample that a bench runs; whatever it attaches to the pipeline it detaches again.

    Attributes:
        name: short and unique among the entries at one budget; what users type.
        title: title in tables.
        steps: number of steps asked of the scheduler.
        budget: NFE asked for; ``None`` where the published setting decides.
        settings: parameters, as reports show them.
    """

    name: str
    title: str
    steps: int
    budget: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def attached(self, pipe: Any) -> Any:
        """Return a context manager around runs of ``pipe``; it yields a handle if Foreseer is attached."""


@dataclass(frozen=True)
class PolicyEntry(Entry):
    """Entry that attaches a policy.

    Attributes:
        policy: a :class:`foreseer.Policy` or :class:`foreseer.gate.GatedPolicy`.
    """

    policy: Any = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Attach the policy."""
        from foreseer.attach.accelerate import accelerate

        with accelerate(pipe, self.policy) as handle:
            yield handle


@dataclass(frozen=True)
class PlainEntry(Entry):
    """Entry that computes every one of ``steps`` steps: the reference, or step reduction."""

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Attach nothing."""
        yield None


@dataclass(frozen=True)
class LazyEntry(Entry):
    """Entry that is set up only when one of its runs is still to do: trial runs and searches take time.

    Attributes:
        make: function from the pipeline to the entry.
        details: facts that distinguish it from entries of the same name and budget: checksums of files, options.
    """

    make: Callable[[Any], Entry] = field(kw_only=True)
    details: tuple[str, ...] = field(kw_only=True, default=())

    def attached(self, pipe: Any) -> Any:
        """Attach the entry that ``make`` returns."""
        return self.make(pipe).attached(pipe)
