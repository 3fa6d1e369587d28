"""What a command line asks for: a method or a file, and one target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from foreseer.checks import check_target, one_target
from foreseer.cli.common import LESS, budget_of_speedup, no_savings
from foreseer.errors import PlanError
from foreseer.grid import Grid
from foreseer.hosts.offered import load_profile
from foreseer.kernel import Kernel, KernelError
from foreseer.kernel.interpolate import resampled
from foreseer.methods import find, policy_for, resolve
from foreseer.methods.profile import Profile
from foreseer.plan import FixedPlan, Plan, Policy
from foreseer.schedule.base import budget_at

# Options of a command and the names of the targets in calls.
TARGETS = {
    "--nfe": "nfe",
    "--forward-passes": "forward_passes",
    "--speedup": "speedup",
    "--max-error": "max_error",
    "--quality": "quality",
}
AT_ALL = "or give --force to compute every step"


@dataclass(frozen=True)
class PolicyRequest:
    """A method or a file, with a target; nothing named is the default (`foreseer.methods.defaults`).

    Args:
        method: name of a method.
        profile: a profile's file, or its repository on the Hub.
        kernel: a kernel file.
        plan: a plan file.
        targets: values of the options in :data:`TARGETS`.
        gated: whether the forecast-error gate decides, with a kernel.
        max_nfe: largest number of computed steps under that gate.
        matrix: L2P's weight file.
        site: of a named method's features.

    Raises:
        BadParameter: the options do not go together.
    """

    method: str | None
    profile: str | None
    kernel: Path | None
    plan: Path | None
    targets: Mapping[str, Any]
    gated: bool = False
    max_nfe: int | None = None
    matrix: Path | None = None
    site: str | None = None

    def __post_init__(self) -> None:
        files = {"--profile": self.profile, "--kernel": self.kernel, "--plan": self.plan}
        one_target(typer.BadParameter, {"--method": self.method, **files})
        one_target(typer.BadParameter, self.targets)
        target = self.target
        if "forward_passes" in target and self.kernel is None:
            raise typer.BadParameter("it needs --kernel.", param_hint="--forward-passes")
        if self.gated and (self.kernel is None or not target or target.keys() - {"nfe", "max_error"}):
            raise typer.BadParameter("it needs --kernel, and --nfe or --max-error.", param_hint="--gated")
        if self.max_nfe is not None and not self.gated:
            raise typer.BadParameter("it needs --gated; without a gate, give --nfe.", param_hint="--max-nfe")
        if self.matrix is not None and self.method != "l2p":
            raise typer.BadParameter("it belongs to --method l2p.", param_hint="--matrix")
        if self.site is not None and any(files.values()):
            raise typer.BadParameter("the file sets the site: leave --site out.", param_hint="--site")

    @property
    def target(self) -> dict[str, Any]:
        """The target that was given, by its name in calls."""
        return {TARGETS[option]: value for option, value in self.targets.items() if value is not None}

    @property
    def fallback(self) -> bool:
        """Whether the output is forecast where the method's site is not available, as in ``fs.accelerate``."""
        return self.site is None and self._file is None

    @cached_property
    def _file(self) -> Profile | Kernel | Plan | None:
        if self.kernel is not None:
            return Kernel.load(self.kernel)
        if self.plan is not None:
            return Plan.load(self.plan)
        if self.profile is not None:
            return load_profile(self.profile)
        return None

    def policy(self, steps: int) -> tuple[Policy | None, int]:
        """The policy, ``None`` for step reduction, and the steps to sample with.

        Raises:
            ForeseerError: a file cannot be used, the method is unknown, or the target cannot be met.
        """
        file, target = self._file, self.target
        if isinstance(file, Kernel) and self.gated:
            from foreseer.methods.gated import gated

            return gated(file, **target, max_nfe=self.max_nfe), steps
        if isinstance(file, Kernel) and "forward_passes" in target:
            from foreseer.methods.learned import learned

            return learned(file, **target), steps
        if file is not None:
            return policy_for(file, **target), steps
        if self.matrix is not None:
            return resolve("l2p", matrix=self.matrix, site=self.site, **target), steps
        if self.method is not None and find(self.method).reduces_steps:
            return None, budget_at(steps, target.get("nfe"), target.get("speedup"))
        return policy_for(self.method, site=self.site, **target), steps

    def check_budget(self, steps: int) -> None:
        """Refuse a budget that saves nothing in a run of ``steps``; nothing is loaded or imported for it.

        Raises:
            BadParameter: it does not save a step, it is out of reach, or it is less than a gate needs.
            PlanError: it is out of range.
        """
        check_target(self.target, PlanError)
        option = next((option for option, value in self.targets.items() if value is not None), "")
        nfe, speedup = self.target.get("nfe"), self.target.get("speedup")
        computed = nfe if speedup is None else budget_of_speedup(steps, speedup)
        if computed is not None and computed >= steps:
            raise no_savings(computed, steps, option, f"{LESS}, {AT_ALL}")
        if self.gated and nfe == 1:
            raise typer.BadParameter("the mean of a gated run is 2 or more.", param_hint=option)

    def check_savings(self, policy: Policy | None, steps: int) -> None:
        """Refuse a policy that would compute every step, as far as this is known before the run.

        Raises:
            BadParameter: it would.
            ForeseerError: the policy cannot serve such a run.
        """
        asked = self.method or self._file or self.target
        if not asked or policy is None or policy.decides_while_sampling or self.target.get("quality") == "exact":
            return
        if isinstance(policy, FixedPlan) and policy.otherwise is None and len(policy.plan.grid) != steps:
            of = len(policy.plan.grid)
            raise typer.BadParameter(
                f"the plan is for another grid ({of} steps, this run has {steps}): give --steps {of}, {AT_ALL}.",
                param_hint="--plan",
            )
        try:  # on a copy: a job is known by its policy, caches included
            plan = copy.deepcopy(policy).compile(self._grid(policy, steps))
        except KernelError:  # on guessed noise levels: the scheduler's own may differ, and the run says so
            return
        if plan.saves_nothing:
            option = next((option for option, value in self.targets.items() if value is not None), "--plan")
            raise no_savings(plan.nfe, steps, option, f"{LESS}, {AT_ALL}")

    def _grid(self, policy: Policy, steps: int) -> Grid:
        if isinstance(policy, FixedPlan) and len(policy.plan.grid) == steps:
            return policy.plan.grid
        kernel = self._file.kernel if isinstance(self._file, Profile) else self._file
        if not isinstance(kernel, Kernel):
            return Grid.uniform(steps)
        return kernel.grid if len(kernel.grid) == steps else resampled(kernel.grid, steps)
