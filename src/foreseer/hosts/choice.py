"""What a user asks of a host, and the policy that it becomes for a grid: the only use of methods and profiles here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from foreseer.checks import check_count, check_kind, check_number
from foreseer.errors import ForeseerError
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.gate import GatedPolicy
from foreseer.grid import Grid
from foreseer.hosts.schedules import AtSpeedup, WithEnds
from foreseer.kernel import Kernel
from foreseer.methods import METHODS, find
from foreseer.methods.learned import learned
from foreseer.methods.quality import QUALITIES
from foreseer.methods.validate import expected_error, formula_error
from foreseer.plan import Policy, ScheduledPolicy

DEFAULT_METHOD = "adams-bashforth"
DEFAULT_SPEEDUP = 2.0


class ChoiceError(ForeseerError, ValueError):
    """Options of a host contradict each other, are unknown or out of range."""


def output_methods() -> tuple[str, ...]:
    """Names of the methods that can be served call by call, on the network's output alone."""
    names = []
    for name, method in METHODS.items():
        if method.reduces_steps or method.forecaster is None or method.site not in ("output", "last_block"):
            continue
        names.append(name)
    return tuple(names)


@dataclass(frozen=True, eq=False)
class Choice:
    """Method and budget, chosen once and served for every grid.

    Args:
        method: a name from :func:`output_methods`; by default the profile's rows, or ``adams-bashforth`` without one.
        speedup: steps per computed step; by default 2.
        nfe: computed steps per run, in place of a speedup.
        quality: one of :data:`QUALITIES`, in place of a speedup; needs a profile, except ``"exact"``.
        profile: what was learned of the model.
        first_steps: how many steps always compute at the beginning.
        last_steps: how many steps always compute at the end.

    Raises:
        ChoiceError: the options contradict each other, or one is unknown or out of range.

    >>> Choice(speedup=2.5).policy(Grid.uniform(20)).compile(Grid.uniform(20)).nfe
    8
    >>> Choice(quality="exact").policy(Grid.uniform(20)) is None
    True
    """

    method: str = ""
    speedup: float | None = None
    nfe: int | None = None
    quality: str | None = None
    profile: Kernel | None = field(default=None, repr=False)
    first_steps: int = 1
    last_steps: int = 0
    _policies: dict[tuple[bytes, int], Policy | None] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        targets = [name for name in ("speedup", "nfe", "quality") if getattr(self, name) is not None]
        if len(targets) > 1:
            raise ChoiceError(f"Received {' and '.join(targets)}; expected at most one of speedup, nfe and quality.")
        if self.speedup is not None:
            check_number("speedup", self.speedup, ChoiceError, least=1.0, most=1000.0)
        if self.nfe is not None:
            check_count("nfe", self.nfe, ChoiceError, least=1)
        check_count("first_steps", self.first_steps, ChoiceError)
        check_count("last_steps", self.last_steps, ChoiceError)
        if self.profile is not None:
            check_kind("profile", self.profile, Kernel, ChoiceError)
            if self.profile.site != "output":
                raise ChoiceError(f"The profile's site is {self.profile.site!r}; a host needs one of the output.")
        if self.method and self.method not in output_methods():
            raise ChoiceError(f"Unknown method {self.method!r}; expected one of {', '.join(output_methods())}.")
        if self.quality is not None and self.quality not in QUALITIES:
            raise ChoiceError(f"quality is {self.quality!r}; expected one of {', '.join(QUALITIES)}.")
        if self.quality not in (None, "exact") and (self.profile is None or self.method):
            raise ChoiceError(
                f"quality={self.quality!r} needs a profile and no method: errors are known in advance only for a "
                "profile's rows. Pass profile=..., or a speedup."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Choice:
        """A choice from a configuration's keys and values; a profile is the path of its file.

        Raises:
            ChoiceError: a key is unknown, or a value is refused.
            ForeseerError: the profile cannot be read.
        """
        known = [entry.name for entry in fields(cls) if entry.init]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ChoiceError(f"Unknown options {', '.join(unknown)}; expected some of {', '.join(known)}.")
        values = {name: value for name, value in options.items() if value is not None}
        if isinstance(values.get("profile"), str):
            values["profile"] = Kernel.load(values["profile"])
        return cls(**values)

    def policy(self, grid: Grid, first_steps: int = 0) -> Policy | None:
        """The policy for a run on ``grid``; ``None`` if every step is to be computed. Kept, as a search takes time.

        Args:
            grid: the noise levels of the run, or of a part of it that is served as a run.
            first_steps: of this part, where more must compute than :attr:`first_steps`.

        Raises:
            ForeseerError: the method cannot serve such a grid.
        """
        first = max(self.first_steps, first_steps, 1)
        key = (grid.key, first)
        with self._lock:
            if key not in self._policies:
                if len(self._policies) >= 64:
                    self._policies.clear()
                self._policies[key] = self._policy(grid, first)
            return self._policies[key]

    def standing_policy(self) -> Policy | None:
        """One policy for runs of any step count; ``None`` if every step is to be computed.

        Raises:
            ChoiceError: the method decides while sampling.
        """
        if self.quality == "exact":
            return None
        if self.profile is not None and not self.method:
            targets = {"nfe": self.nfe, "speedup": self.speedup, "max_error": QUALITIES[self.quality or "exact"]}
            given = {name: value for name, value in targets.items() if value is not None}
            return self._ended(learned(self.profile, **(given or {"speedup": DEFAULT_SPEEDUP})), self.first_steps)
        method = find(self.method or DEFAULT_METHOD)
        if method.gate is not None:
            raise ChoiceError(f"{method.title} decides while sampling, and this host needs steps known in advance.")
        assert method.forecaster is not None
        schedule = AtSpeedup(method.name, None if self.nfe else self.speedup or DEFAULT_SPEEDUP, self.nfe)
        return self._ended(Policy(schedule, method.forecaster, "output"), self.first_steps)

    def expected_error(self, grid: Grid) -> float | None:
        """Expected relative error of the final latent of a run on ``grid``, cross-validated over the profile's prompts.

        ``None`` without a profile, or if every step is computed or the profile does not cover the grid.
        """
        policy = self._policies.get((grid.key, max(self.first_steps, 1)))
        if self.profile is None or not isinstance(policy, ScheduledPolicy):
            return None
        kernel, computed = self.profile.on(grid), policy.compile(grid).computed_steps
        if isinstance(policy.forecaster, KernelRows):
            return expected_error(kernel, computed, policy.forecaster.ridge).mean
        return formula_error(kernel, computed, policy.forecaster).mean

    def _policy(self, grid: Grid, first: int) -> Policy | None:
        steps = len(grid)
        if self.quality == "exact":
            return None
        if self.quality is not None:
            assert self.profile is not None
            policy = self._ended(learned(self.profile, max_error=QUALITIES[self.quality]), first)
            return policy if len(policy.schedule.on(grid)) < steps else None
        budget = self.nfe if self.nfe is not None else max(1, round(steps / (self.speedup or DEFAULT_SPEEDUP)))
        if budget >= steps:
            return None
        least = min(first, steps)
        for nfe in range(budget, 0, -1):  # the ends are part of the budget if that is possible
            policy = self._of_budget(steps, nfe)
            if isinstance(policy, GatedPolicy):
                return policy
            policy = self._ended(policy, first)
            computed = len(policy.schedule.on(grid))
            if computed <= budget or nfe <= least:
                return policy if computed < steps else None
        return None

    def _ended(self, policy: Policy, first: int) -> Any:
        if first == 1 and self.last_steps == 0:
            return policy
        assert isinstance(policy, ScheduledPolicy)
        return ScheduledPolicy(WithEnds(policy.schedule, first, self.last_steps), policy.forecaster, policy.site)

    def _of_budget(self, steps: int, nfe: int) -> Policy:
        if self.profile is not None and not self.method:
            return learned(self.profile, nfe=nfe)
        return find(self.method or DEFAULT_METHOD).policy(steps, nfe, site="output")
