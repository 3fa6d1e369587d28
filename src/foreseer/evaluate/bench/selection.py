"""Entries by name: methods, learned rows, plans and peers, at budgets or at published settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer.checks import unknown_name
from foreseer.errors import ForeseerError, PlanError
from foreseer.evaluate.entries.base import Entry, LazyEntry, PlainEntry, PolicyEntry
from foreseer.evaluate.entries.trial_prompts import trial_prompts
from foreseer.files import read_whole, reason
from foreseer.forecast import Forecaster
from foreseer.kernel import Kernel
from foreseer.methods import METHODS, Method, find, names, resolve
from foreseer.methods.learned import learned
from foreseer.plan import FixedPlan, Plan, ScheduledPolicy

if TYPE_CHECKING:
    from foreseer.evaluate.peers import CalibrationPrompts, Peer, Probe

DEFAULT_METHODS = ("taylorseer", "spectrum", "l2p", "steps", "unipc")
# Titles of kernel files; the budget of a gate is its mean over images.
TITLES = {"kernel": "Kernel rows, searched steps", "gated": "Kernel rows, forecast-error gate"}
# Methods at these sites differ in their rows only; the others act inside the network and keep their own site.
MOVABLE_SITES = ("output", "last_block")


@dataclass(frozen=True)
class Selection:
    """Methods to compare.

    Attributes:
        steps: steps of the reference.
        budgets: numbers of computed steps (NFE); ``None`` means each method's published setting.
        methods: names of methods and peers, ``kernel:FILE``, ``gated:FILE``, ``plan:FILE`` and ``module:attribute``
            (a method of your own); by default ``DEFAULT_METHODS``, and the entries of the files below.
        kernels: kernel files: learned rows at every budget; L2P is trained from the first.
        plans: plan files.
        matrix: L2P's weight file.
        site: site of the methods that differ in their rows only; by default that of each method's publication.
        options: options of the pipeline's call, for trial runs.
        trial_prompts: prompts for trial runs; by default the model's own or neutral ones.
        l2p_kernel: kernel file to train L2P from; by default the first of ``kernels``.
        everything: whether the default is every method and peer that needs no file instead.
        calibration_prompts: prompts for peers that learn, which then belong to the default.
        forward_passes: calls of the network per run, in place of ``budgets``; see :meth:`in_steps`.
        passes_of: for each budget, its forward passes, which kernel rows spend branch by branch.
    """

    steps: int
    budgets: Sequence[int | None]
    methods: Sequence[str] | None = None
    kernels: Sequence[Path] = ()
    plans: Sequence[Path] = ()
    matrix: Path | None = None
    site: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trial_prompts: Sequence[str] = ()
    l2p_kernel: Path | None = None
    everything: bool = False
    calibration_prompts: CalibrationPrompts | None = None
    forward_passes: Sequence[int] = ()
    passes_of: Mapping[int, int] = field(default_factory=dict)

    def in_steps(self, passes_per_step: float) -> Selection:
        """Convert forward passes to the largest budgets of computed steps that take no more of them.

        >>> Selection(8, (), forward_passes=[9, 6]).in_steps(2).budgets
        [4, 3]

        Raises:
            PlanError: they are fewer than one step takes, more than the run takes, or as many steps as others.
        """
        passes_of: dict[int, int] = {}
        whole = self.steps * passes_per_step
        for passes in self.forward_passes:
            if passes < passes_per_step:
                raise PlanError(f"{passes} forward passes are fewer than one step takes ({passes_per_step:g}).")
            if passes > whole:
                raise PlanError(f"{passes} forward passes are more than a run of {self.steps} steps takes ({whole:g}).")
            budget = int(passes / passes_per_step)
            if budget in passes_of:
                raise PlanError(
                    f"{passes_of[budget]} and {passes} forward passes are both {budget} computed steps, at "
                    f"{passes_per_step:g} per step; leave one out."
                )
            passes_of[budget] = passes
        return replace(self, budgets=list(passes_of), passes_of=passes_of)

    def names(self) -> list[str]:
        """List the names to run, with files as ``kernel:FILE`` and ``plan:FILE``."""
        files = [f"plan:{path}" for path in self.plans] + [f"kernel:{path}" for path in self.kernels]
        if self.methods is not None:
            return list(dict.fromkeys([*self.methods, *files]))
        learning = [name for name, peer in _peers().items() if peer.learns]
        default = [*METHODS, *_peers()] if self.everything else [*DEFAULT_METHODS, *learning]
        if self.calibration_prompts is None:
            default = [name for name in default if name not in learning]
        return [*files, *(name for name in default if name != "l2p" or self._l2p_files())]

    def entries(self) -> list[Entry]:
        """Make an entry of every method at every budget.

        Raises:
            ForeseerError: a name is unknown, a file cannot be read, a budget does not fit.
        """
        for budget in self.budgets:
            if budget is not None and not 1 <= budget <= self.steps:
                raise PlanError(
                    f"{budget} computed steps do not fit a run of {self.steps} steps; ask for 1 to {self.steps}."
                )
        chosen = self.names()
        if not chosen:
            raise PlanError("There is no method to run: give names, or leave the option out for all.")
        probes: list[Probe] = []  # at most one, shared by all peers so that its reference is run once
        entries = [entry for name in chosen for entry in self._entries_of(name, probes)]
        if not entries:
            raise PlanError(f"There is nothing to run: {', '.join(chosen)} has no published setting; give --nfe.")
        return entries

    def _entries_of(self, name: str, probes: list[Probe]) -> Iterator[Entry]:
        kind, _, rest = name.partition(":")
        if rest and kind in ("kernel", "gated", "plan"):
            yield from self._entries_of_file(kind, Path(rest))
        elif name in names() or rest:
            yield from self._entries_of_method(find(name))
        elif name in _peers():
            details = (self.calibration_prompts.digest,) if self.calibration_prompts is not None else ()
            for budget in self.budgets:
                make = self._peer(name, budget, probes)
                yield LazyEntry(name, name, self.steps, budget, make=make, details=details)
        else:
            expected = [*names(), *_peers(), "kernel:FILE", "gated:FILE", "plan:FILE"]
            raise PlanError(unknown_name("method", name, expected))

    def _entries_of_method(self, method: Method) -> Iterator[Entry]:
        details = (str(self.site), *map(_checksum, self._l2p_files() if method.name == "l2p" else ()))
        for budget in self.budgets:
            if not method.reduces_steps:
                make = self._method(method, budget)
                yield LazyEntry(method.name, method.title, self.steps, budget, make=make, details=details)
            elif budget is not None:
                yield PlainEntry(method.name, method.title, budget, budget)

    def _entries_of_file(self, kind: str, path: Path) -> Iterator[Entry]:
        name, checksum = f"{kind}:{path.name.split('.')[0]}", _checksum(path)
        if kind == "plan":
            plan = Plan.load(path)
            steps = list(plan.computed_steps)
            settings = {"plan": path.name, "sha256": checksum, "site": plan.site, "computed steps": steps}
            yield PolicyEntry(name, "Plan", self.steps, plan.nfe, settings, policy=FixedPlan(plan))
            return
        for budget in self.budgets:
            if budget is not None:
                make = self._kernel_rows(name, path, budget)
                details = (checksum, *([f"{self.passes_of[budget]} passes"] if budget in self.passes_of else []))
                yield LazyEntry(name, TITLES[kind], self.steps, budget, make=make, details=details)

    def _kernel_rows(self, name: str, path: Path, budget: int) -> Callable[[Any], Entry]:
        def make(pipe: Any) -> Entry:
            kernel, kind = Kernel.load(path), name.partition(":")[0]
            if kind == "kernel" and kernel.branches is not None and budget in self.passes_of:
                policy = learned(kernel, forward_passes=self.passes_of[budget])
            else:
                policy = resolve(kind, nfe=budget, profile=kernel)
            settings = {"kernel": path.name, "prompts": kernel.prompts, **_settings(policy)}
            return PolicyEntry(name, TITLES[kind], self.steps, budget, settings, policy=policy)

        return make

    def _method(self, method: Method, budget: int | None) -> Callable[[Any], Entry]:
        def make(pipe: Any) -> Entry:
            if method.gate is not None:
                return self._gated(method, budget, pipe)
            if method.name == "l2p" and (files := self._l2p_files()):  # its published steps, with the trained rows
                trained = replace(method, forecaster=l2p_rows(self.matrix, files[0]))
                policy = trained.policy(self.steps, budget, self._site(method))
            else:
                policy = resolve(method.name, steps=self.steps, nfe=budget, site=self._site(method))
            return PolicyEntry(method.name, method.title, self.steps, budget, _settings(policy), policy=policy)

        return make

    def _gated(self, method: Method, budget: int | None, pipe: Any) -> Entry:
        """Make a gate's entry at its published setting, or tuned to the budget on trial prompts."""
        from foreseer.evaluate.entries.tune_gates import GateTuning
        from foreseer.gate import GatedPolicy, TeaCache

        policy = resolve(method.name, steps=self.steps, site=self._site(method))
        assert isinstance(policy, GatedPolicy)
        tuning, extra = GateTuning(pipe, self.steps, self.options, self.trial_prompts), {}
        if isinstance(policy.gate, TeaCache):  # its published threshold refers to fitted coefficients
            policy = replace(policy, gate=tuning.fitted(policy.gate))
        if budget is not None:
            tuned = tuning.tune(policy, budget)
            policy, extra = tuned.policy, {"NFE of trial runs": round(tuned.nfe, 2)}
        settings = {**_settings(policy), **extra}
        return PolicyEntry(method.name, method.title, self.steps, budget, settings, policy=policy)

    def _l2p_files(self) -> list[Path]:
        """List the file of L2P's weights or the kernel to train it from; empty without either."""
        return [path for path in (self.matrix, self.l2p_kernel, *self.kernels) if path is not None][:1]

    def _site(self, method: Method) -> str | None:
        return self.site if method.site in MOVABLE_SITES else None

    def _peer(self, name: str, budget: int | None, probes: list[Probe]) -> Callable[[Any], Entry]:
        def make(pipe: Any) -> Entry:
            from foreseer.evaluate.peers import Probe, find_peer

            if not probes:
                probe = Probe.of(pipe, self.steps, self.options, self.calibration_prompts)
                probes.append(replace(probe, prompt=trial_prompts(pipe, self.trial_prompts)[0]))
            return find_peer(name, pipe, self.steps, budget, probe=probes[0])

        return make


def l2p_rows(matrix: Path | None, kernel: Path | None) -> Forecaster:
    """Read L2P's rows from a weight file, else train them from a kernel file.

    Raises:
        ForeseerError: the file cannot be read.
    """
    policy = resolve("l2p", matrix=matrix, profile=None if matrix is not None else kernel)
    assert isinstance(policy, ScheduledPolicy)
    return policy.forecaster


def _settings(policy: Any) -> dict[str, Any]:
    rule = "gate" if policy.decides_while_sampling else "schedule"
    return {rule: repr(getattr(policy, rule)), "forecaster": repr(policy.forecaster), "site": policy.site}


def _peers() -> dict[str, Peer]:
    from foreseer.evaluate.peers import PEERS

    return PEERS


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(read_whole(path, 2**30)).hexdigest()[:12]
    except (OSError, ValueError) as error:
        raise ForeseerError(f"Cannot read {path}: {reason(error)}.") from error
