"""Refined plans in ComfyUI: a rollout, then Gauss-Newton iterations on all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from foreseer.calibration.error_derivatives import difference_for, error_moments
from foreseer.calibration.gauss_newton import Descent, ErrorMoments, iterate
from foreseer.calibration.record import gram
from foreseer.calibration.row_directions import RowDirections, row_directions
from foreseer.hosts.comfyui.rolling import ReferenceRun, Sample, final_error, roll_out
from foreseer.kernel import Kernel
from foreseer.methods.learned import learned
from foreseer.methods.validate import measured_error, typical_error
from foreseer.plan import Plan


@dataclass(frozen=True)
class Refinement:
    """Recorded runs, and how to sample their conditionings again.

    The last quarter of the runs, at least one, is held out: no row is fitted on them, and they decide what is kept.

    Args:
        kernel: of the references, with the sampler's matrix.
        references: one per conditioning, two at least.
        sample: runs the sampler with the wrappers of its first argument on the conditioning of that index.
        iterations: of Gauss-Newton, at most; 0 keeps the rollout's rows.
        rounding: least relative size of a finite difference.
    """

    kernel: Kernel
    references: Sequence[ReferenceRun]
    sample: Sample
    iterations: int
    rounding: float

    @property
    def fitted(self) -> int:
        """How many of the runs rows are fitted on."""
        return len(self.references) - max(1, len(self.references) // 4)

    def plan(self, nfe: int) -> Plan | None:
        """Fit a plan of ``nfe`` computed steps, with its expected error.

        ``None`` if the kernel's own rows have a smaller error on the runs held out.
        """
        plan = roll_out(self.kernel, self.references[: self.fitted], self.sample, nfe)
        if self.iterations:
            plan = self._descend(plan)
        errors, others = self._held_out(plan), self._held_out(learned(self.kernel, nfe=nfe).compile(self.kernel.grid))
        if not typical_error(errors) < typical_error(others):
            return None
        return replace(plan, provenance={**plan.provenance, "expected_error": str(measured_error(errors))})

    def _descend(self, plan: Plan) -> Plan:
        """Fit all rows together for the final sample, as :func:`foreseer.refine` does."""
        before = typical_error(self._held_out(plan))
        descent = Descent(before**2)
        while not descent.stopped and descent.iterations < self.iterations:
            directions, moments = self._linearised(plan, difference_for(descent.error**0.5, self.rounding))

            def held_out_error(step: np.ndarray, directions: RowDirections = directions) -> float:
                return typical_error(self._held_out(directions.change(step))) ** 2

            descent, step = iterate(descent, moments, held_out_error)
            plan = plan if step is None else directions.change(step)
        errors = f"typical held-out error {before:.4f} before, {descent.error**0.5:.4f} after"
        return replace(plan, provenance={**plan.provenance, "refined": f"{descent.iterations} iterations; {errors}"})

    def _linearised(self, plan: Plan, difference: float) -> tuple[RowDirections, ErrorMoments]:
        """Directions of the rows, and moments of the errors and their derivatives over the fitted runs."""
        assert self.kernel.sampler is not None
        known: list[dict[int, Tensor]] = [{} for _ in range(self.fitted)]
        errors = [self._error(plan, index, features) for index, features in enumerate(known)]
        directions = row_directions(plan, {"": self._gram(known)}, self.kernel.sampler[:, 1:], self.rounding**2)
        moments = ErrorMoments.none(directions.size)
        for index, (features, error) in enumerate(zip(known, errors, strict=True)):

            def changed_error(
                changed: Plan, start: int, index: int = index, features: dict[int, Tensor] = features
            ) -> Tensor:
                return self._error(changed, index, {step: features[step] for step in features if step <= start})

            size = difference * float(self.references[index].sample.double().square().mean().sqrt())
            moments += error_moments(directions, error, changed_error, size).relative()
        return directions, moments

    def _gram(self, features: Sequence[dict[int, Tensor]]) -> np.ndarray:
        """Mean products of the outputs at computed steps over the plan's grid."""
        total = len(self.kernel.grid)
        mean = np.zeros((total, total))
        for known in features:
            outputs = list(known.values())
            mean[np.ix_(list(known), list(known))] += gram(outputs, outputs) / len(features)
        return mean

    def _error(self, plan: Plan, index: int, features: dict[int, Tensor] | None = None) -> Tensor:
        return final_error(plan, self.references[index], self.sample, index, features)

    def _held_out(self, plan: Plan) -> np.ndarray:
        """Relative errors of the final samples of the runs held out."""
        held_out = range(self.fitted, len(self.references))
        return np.array([float(self._error(plan, index).double().norm()) for index in held_out])
