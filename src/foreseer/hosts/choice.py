"""User options of a host (method, budget, profile) and the policy that they give for a grid."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from foreseer.checks import check_count, check_kind, check_target, one_target, unknown_name
from foreseer.errors import ForeseerError
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.gate import GatedPolicy
from foreseer.grid import Grid
from foreseer.hosts.offered import load_profile, output_methods
from foreseer.hosts.policies import ChoicePolicy, policy_for
from foreseer.kernel import Kernel
from foreseer.methods import find
from foreseer.methods.profile import Profile
from foreseer.methods.quality import QUALITIES
from foreseer.methods.validate import expected_error, formula_error
from foreseer.plan import Policy, ScheduledPolicy


class ChoiceError(ForeseerError, ValueError):
    """Options of a host contradict each other, are unknown or out of range."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Method and budget of a host, for runs on any grid.

    Args:
        method: a name from :func:`output_methods`; by default the profile's rows, or ``generic`` without one.
        speedup: steps per computed step; without a target the profile's default, or 2.5 without a profile.
        nfe: computed steps per run, in place of a speedup.
        quality: one of :data:`QUALITIES`, in place of a speedup; needs a profile, except ``"exact"``.
        profile: the model's profile.
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
    profile: Profile | Kernel | None = field(default=None, repr=False)
    first_steps: int = 1
    last_steps: int = 0
    _policies: dict[tuple[bytes, int], Policy | None] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        check_target(self.target, ChoiceError)
        check_count("first_steps", self.first_steps, ChoiceError)
        check_count("last_steps", self.last_steps, ChoiceError)
        if isinstance(self.profile, Kernel):
            object.__setattr__(self, "profile", Profile(self.profile))
        if self.profile is not None:
            check_kind("profile", self.profile, Profile, ChoiceError)
            if self._kernel.site != "output":
                raise ChoiceError(f"The profile's site is {self._kernel.site!r}; a host needs one of the output.")
        if self.method and self.method not in output_methods():
            raise ChoiceError(unknown_name("method", self.method, output_methods()))
        if self.quality is not None and self.quality not in QUALITIES:
            raise ChoiceError(unknown_name("quality", self.quality, QUALITIES))
        if self.quality not in (None, "exact") and (self.profile is None or self.method):
            raise ChoiceError(
                f"quality={self.quality!r} needs a profile and no method, as only its errors are known in advance."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Choice:
        """Build a choice from a configuration, in which ``profile`` is the path of a file.

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
            values["profile"] = load_profile(values["profile"])
        return cls(**values)

    def policy(self, grid: Grid, first_steps: int = 0) -> Policy | None:
        """Return the policy for a run on ``grid``; ``None`` if every step is to be computed.

        Policies are cached, since a search takes time.

        Args:
            grid: the noise levels of the run, or of a part of it that is served as a run.
            first_steps: minimum number of first steps to compute, if more than :attr:`first_steps`.

        Raises:
            ForeseerError: the method cannot serve such a grid.
        """
        first = max(self.first_steps, first_steps, 1)
        key = (grid.key, first)
        with self._lock:
            if key not in self._policies:
                if len(self._policies) >= 64:
                    self._policies.clear()
                self._policies[key] = policy_for(self, grid, first)
            return self._policies[key]

    def standing_policy(self) -> Policy | None:
        """Return one policy for runs of any step count; ``None`` if every step is to be computed.

        Raises:
            ChoiceError: the method decides while sampling.
        """
        if self.quality == "exact":
            return None
        if self.method and find(self.method).gate is not None:
            raise ChoiceError(f"{self.method} decides while sampling, and this host needs steps known in advance.")
        return ChoicePolicy(self)

    def expected_error(self, grid: Grid) -> float | None:
        """Return the expected relative error of the final latent of a run on ``grid``.

        It is cross-validated over the profile's prompts. ``None`` without a profile, or if every step is computed.
        """
        policy = self._policies.get((grid.key, max(self.first_steps, 1)))
        if self.profile is None or policy is None or isinstance(policy, GatedPolicy):
            return None
        kernel, plan = self._kernel.on(grid), policy.compile(grid)
        if not isinstance(policy, ScheduledPolicy):
            return plan.expected_error
        if isinstance(policy.forecaster, KernelRows):
            rows = policy.forecaster
            return expected_error(kernel, plan.computed_steps, rows.ridge, feedback_gain=rows.feedback_gain).mean
        return formula_error(kernel, plan.computed_steps, policy.forecaster).mean

    @property
    def _kernel(self) -> Kernel:
        assert isinstance(self.profile, Profile)
        return self.profile.kernel

    @property
    def target(self) -> dict[str, Any]:
        """The speedup, budget or quality asked for, by name; empty for the default."""
        targets = {"speedup": self.speedup, "nfe": self.nfe, "quality": self.quality}
        return one_target(ChoiceError, targets)
