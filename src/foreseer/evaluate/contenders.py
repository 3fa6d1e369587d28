"""Contenders by name: our methods, learned rows, plans and peers, at budgets or at published settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer.errors import ForeseerError, PlanError
from foreseer.evaluate.contender import Accelerated, Contender, Unaccelerated
from foreseer.files import read_whole, reason
from foreseer.methods import METHODS, Method
from foreseer.plan import Plan, Policy

if TYPE_CHECKING:
    from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts

# What kernel files are shown as; a gate takes its budget as the mean over images.
TITLES = {"kernel": "Kernel rows, searched steps", "gated": "Kernel rows, forecast-error gate"}


@dataclass(frozen=True)
class Deferred(Contender):
    """A contender set up only if something of it is left to run: trial runs and searches take time.

    Attributes:
        make: from the pipeline to the contender.
        details: what tells it from others of its name and budget: files' checksums, options.
    """

    make: Callable[[Any], Contender] = field(kw_only=True)
    details: tuple[str, ...] = field(kw_only=True, default=())

    def attached(self, pipe: Any) -> Any:
        """As the contender that it stands for."""
        return self.make(pipe).attached(pipe)


@dataclass(frozen=True)
class Choice:
    """What is to be compared.

    Attributes:
        steps: of the reference.
        budgets: network evaluations; ``None`` stands for each method's published setting.
        methods: names of methods and peers, ``kernel:FILE``, ``gated:FILE`` and ``plan:FILE``; by default everything
            that needs no file, and what the files below make; peers that learn only with calibration prompts.
        kernels: kernel files: learned rows at every budget, and L2P trained from the first.
        plans: plan files.
        matrix: L2P's weight file.
        site: where features are taken; by default where each method's publication takes them.
        options: of the pipeline's call, for the trial runs of peers.
        calibration_prompts: for peers that learn.
    """

    steps: int
    budgets: Sequence[int | None]
    methods: Sequence[str] | None = None
    kernels: Sequence[Path] = ()
    plans: Sequence[Path] = ()
    matrix: Path | None = None
    site: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    calibration_prompts: CalibrationPrompts | None = None

    def names(self) -> list[str]:
        """The names to run, files as ``kernel:FILE`` and ``plan:FILE``."""
        files = [f"plan:{path}" for path in self.plans] + [f"kernel:{path}" for path in self.kernels]
        if self.methods is not None:
            return list(dict.fromkeys([*self.methods, *files]))
        ours = [name for name in METHODS if name != "l2p" or self.matrix or self.kernels]
        learned = self.calibration_prompts is not None
        return [*files, *ours, *(name for name, learns in _peers().items() if learned or not learns)]

    def contenders(self) -> list[Contender]:
        """Every method at every budget.

        Raises:
            ForeseerError: a name is unknown, a file cannot be read, a budget does not fit.
        """
        for budget in self.budgets:
            if budget is not None and not 1 <= budget <= self.steps:
                raise PlanError(f"{budget} evaluations do not fit {self.steps} steps.")
        names = self.names()
        if not names:
            raise PlanError("There is no method to run: give names, or leave the option out for all.")
        probe: list[Any] = []  # one for all peers: its reference is run once
        made = [one for name in names for one in self._of(name, probe)]
        if not made:
            raise PlanError(f"There is nothing to run: {', '.join(names)} has no published setting; give --nfe.")
        return made

    def _of(self, name: str, probe: list[Any]) -> Iterator[Contender]:
        kind, _, rest = name.partition(":")
        if rest and kind in ("kernel", "gated", "plan"):
            yield from self._of_file(kind, Path(rest))
        elif name in METHODS:
            yield from self._of_method(METHODS[name])
        elif name in _peers():
            prompts = self.calibration_prompts
            details = (prompts.digest,) if prompts is not None else ()
            for budget in self.budgets:
                make = self._peer(name, budget, probe)
                yield Deferred(name, name, self.steps, budget, make=make, details=details)
        else:
            known = ", ".join([*METHODS, *_peers(), "kernel:FILE", "gated:FILE", "plan:FILE"])
            raise PlanError(f"Unknown method {name!r}: expected one of {known}.")

    def _of_method(self, method: Method) -> Iterator[Contender]:
        details = (str(self.site), *(_checksum(path) for path in (self.matrix, *self.kernels[:1]) if path))
        for budget in self.budgets:
            if method.reduces_steps:
                if budget is not None:
                    yield Unaccelerated(method.name, method.title, budget, budget)
            else:
                make = self._method(method, budget)
                about = details if method.name == "l2p" else details[:1]
                yield Deferred(method.name, method.title, self.steps, budget, make=make, details=about)

    def _of_file(self, kind: str, path: Path) -> Iterator[Contender]:
        name, checksum = f"{kind}:{path.name.split('.')[0]}", _checksum(path)
        if kind == "plan":
            yield self._planned(name, path, checksum)
            return
        for budget in self.budgets:
            if budget is not None:
                make = self._kernel_rows(name, path, budget)
                title = TITLES[kind]
                yield Deferred(name, title, self.steps, budget, make=make, details=(checksum,))

    def _planned(self, name: str, path: Path, checksum: str) -> Contender:
        plan = Plan.load(path)
        steps = list(plan.computed_steps)
        settings = {"plan": path.name, "sha256": checksum, "site": plan.site, "computed steps": steps}
        return Accelerated(name, "Plan", self.steps, plan.nfe, settings, policy=Policy.from_plan(plan))

    def _kernel_rows(self, name: str, path: Path, budget: int) -> Callable[[Any], Contender]:
        def make(pipe: Any) -> Contender:
            from foreseer.kernel import Kernel
            from foreseer.methods.gated import gated
            from foreseer.methods.learned import learned

            kernel = Kernel.load(path)
            kind = name.partition(":")[0]
            policy = gated(kernel, nfe=budget) if kind == "gated" else learned(kernel, nfe=budget)
            settings = {"kernel": path.name, "prompts": kernel.prompts, **_settings(policy)}
            return Accelerated(name, TITLES[kind], self.steps, budget, settings, policy=policy)

        return make

    def _method(self, method: Method, budget: int | None) -> Callable[[Any], Contender]:
        def make(pipe: Any) -> Contender:
            if method.gate is not None:
                return self._gated(method, budget, pipe)
            policy = self._with_matrix(method).policy(self.steps, budget, self.site)
            return Accelerated(method.name, method.title, self.steps, budget, _settings(policy), policy=policy)

        return make

    def _gated(self, method: Method, budget: int | None, pipe: Any) -> Contender:
        """A gate at its published setting, or with what spends the budget in the mean over prompts of its own."""
        from foreseer.evaluate.thresholds import Trials
        from foreseer.gate import GatedPolicy, TeaCache

        policy = method.policy(self.steps, None, self.site)
        assert isinstance(policy, GatedPolicy)
        trials, found = Trials(pipe, self.steps, self.options), {}
        if isinstance(policy.gate, TeaCache):  # a published threshold, too, is of the output's change
            policy = replace(policy, gate=trials.fitted(policy.gate))
        if budget is not None:
            settled = trials.settle(policy, budget)
            policy, found = settled.policy, {"evaluations on other prompts": round(settled.nfe, 2)}
        settings = {**_settings(policy), **found}
        return Accelerated(method.name, method.title, self.steps, budget, settings, policy=policy)

    def _with_matrix(self, method: Method) -> Method:
        if method.name != "l2p":
            return method
        if self.matrix is not None:
            return method.with_matrix(self.matrix)
        if self.kernels:
            from foreseer.kernel import Kernel
            from foreseer.methods.train_l2p import train_l2p

            return replace(method, forecaster=train_l2p(Kernel.load(self.kernels[0])))
        return method

    def _peer(self, name: str, budget: int | None, probe: list[Any]) -> Callable[[Any], Contender]:
        def make(pipe: Any) -> Contender:
            from foreseer.evaluate.peers import Probe, find_peer

            if not probe:
                probe.append(Probe.of(pipe, self.steps, self.options, self.calibration_prompts))
            return find_peer(name, pipe, self.steps, budget, probe=probe[0])

        return make


def _settings(policy: Policy) -> dict[str, Any]:
    decides = ("schedule", policy.schedule) if not policy.decides_while_sampling else ("gate", policy.gate)
    return {decides[0]: repr(decides[1]), "forecaster": repr(policy.forecaster), "site": policy.site}


def _peers() -> dict[str, bool]:
    """Names of the peers, and which of them learn from calibration prompts."""
    try:
        from foreseer.evaluate.peers import PEERS
    except ImportError:
        return {}
    return {name: peer.learns for name, peer in PEERS.items()}


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(read_whole(path, 2**30)).hexdigest()[:12]
    except (OSError, ValueError) as error:
        raise ForeseerError(f"Cannot read {path}: {reason(error)}.") from error
