"""The change site: the change that a range of blocks makes is forecast, and added to what the range is given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import WRONG_PLACE, Bypass
from foreseer.attach.chain import ChainWatch, NoChainError, Segment
from foreseer.attach.containers import flatten
from foreseer.attach.hooks import Forward
from foreseer.attach.proof import Unproven, same_bits, unproven
from foreseer.attach.ranges import Captured, Layout, Replayed, Skipped, Truth
from foreseer.attach.seam import find_blocks
from foreseer.attach.site import NoFeatureError
from foreseer.attach.tracker import TrackedBranch
from foreseer.runtime import BranchRun
from foreseer.site import Change


class ChangeSite:
    """The feature is the change of each stream over each segment of the ranges.

    The blocks are followed on the first computed call, and the ranges put to the proof there: the network is run again
    with them bypassed and their true outputs in place, and its output must be the same to the last bit. (A true change
    added to its input gives the true output to rounding.) Where bypassing whole segments does not reproduce the
    output, each block's own change is taken. A network whose blocks have none is computed at every step, and the record
    says so.

    Args:
        model: the denoiser.
        site: the ranges.
    """

    def __init__(self, model: nn.Module, site: Change) -> None:
        self._model = model
        self._site = site
        self._blocks = Bypass(model)
        self._installed = False
        self._layouts: dict[tuple[nn.Module, ...], Layout | Unproven] = {}  # by the blocks called
        self._latest: Layout | Unproven | None = None
        self._lock = threading.RLock()

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what the ranges change, empty where no step to come needs it."""
        layout = branch.memory.get("layout") or self._latest or self._follow(forward, args, kwargs)
        if isinstance(layout, Unproven):
            raise layout.raised_on(forward(*args, **kwargs))
        captured, output = self._capture(layout, forward, args, kwargs, branch)
        if not captured.complete:  # a branch that calls other blocks
            layout = self._layouts.get(tuple(captured.called)) or self._follow(forward, args, kwargs)
            if isinstance(layout, Unproven):
                raise layout.raised_on(output)
            captured, output = self._capture(layout, forward, args, kwargs, branch)
            if not captured.complete:
                raise NoFeatureError("the network calls its blocks in another order each time", output)
        self._blocks.check_in_place(output)
        if branch.memory.setdefault("layout", layout) is not layout:
            raise NoFeatureError("the network called other blocks than at the step computed before", output)
        branch.memory.update(layout=layout, stand_ins=captured.stand_ins)
        return output, layout.feature(captured.changes, like=next(iter(captured.changes.values()))[0])

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: Sequence[Tensor],
    ) -> Any:
        """Run everything but the range of this step's phase."""
        layout: Layout = branch.memory["layout"]
        segments = layout.early if self._is_early(branch, branch.run.last_step) else layout.late
        changes = layout.changes(feature, segments)
        skipped = Skipped(layout.chain, segments, branch.memory["stand_ins"], changes)
        with self._blocks.handled_by(skipped):
            output = forward(*args, **kwargs)
        skipped.finish()
        return output

    def detach(self) -> None:
        """Leave the blocks as they were found."""
        self._blocks.remove()
        self._installed = False
        self._layouts = {}
        self._latest = None

    def _is_early(self, branch: TrackedBranch, step: int) -> bool:
        return step < self._site.boundary * branch.steps

    def _wanted(self, layout: Layout, branch: TrackedBranch) -> Sequence[Segment]:
        """The segments of this step's phase, and in the early one those of the late if some late step weighs this.

        Under a gate nobody knows which steps will: all.
        """
        step, run = branch.run.last_step + 1, branch.run
        if not isinstance(run, BranchRun):
            return layout.segments
        if not self._is_early(branch, step):
            return layout.late
        last_use = run.first_step + run.plan.last_uses.get(step - run.first_step, -1)
        return layout.early if self._is_early(branch, last_use) else layout.segments

    def _capture(
        self, layout: Layout, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Captured, Any]:
        with self._blocks.handled_by(Captured(layout, self._wanted(layout, branch))) as captured:
            output = forward(*args, **kwargs)
        return captured, output

    def _follow(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | Unproven:
        """The layout of a network called for the first time, or why there is none."""
        with self._lock:
            if not self._installed:
                self._blocks.install(find_blocks(self._model))
                self._installed = True
            with self._blocks.handled_by(ChainWatch()) as watch:
                expected = forward(*args, **kwargs)
            self._blocks.check_in_place(expected)
            chain = watch.chain()
            reason = "bypassing them does not reproduce its output"
            found: Layout | Unproven | None = None
            for alone in (False, True):
                try:
                    layout = Layout.of(chain, self._site, alone)
                    if self._proves_exact(layout, forward, args, kwargs, expected):
                        found = layout
                        break
                except NoChainError as error:
                    reason = str(error)
                    break
            if found is None:
                kind = type(self._model).__name__
                reason = f"{kind} has no range of blocks with a change: {reason}; use site='output' for this model"
                found = unproven(reason, lambda: forward(*args, **kwargs))
            self._layouts[chain.modules] = self._latest = found
            return found

    def _proves_exact(
        self, layout: Layout, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
    ) -> bool:
        """Whether the network gives the same bits where each phase's segments give their true outputs unrun."""
        try:
            truth = flatten(expected)
            with self._blocks.handled_by(Truth(layout)) as seen:
                again = flatten(forward(*args, **kwargs))
            if not (seen.complete and same_bits(truth, again)):
                return False
            for segments in dict.fromkeys((layout.early, layout.late)):
                with self._blocks.handled_by(Replayed(layout.chain, segments, seen.stand_ins, seen.outputs)):
                    if not same_bits(truth, flatten(forward(*args, **kwargs))):
                        return False
        except (NoChainError, torch.OutOfMemoryError):
            raise
        except WRONG_PLACE:
            return False
        return True
