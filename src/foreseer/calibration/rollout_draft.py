"""The plan of a rollout as far as its rows are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from foreseer.calibration.handovers import rows_by_network, steps_by_network
from foreseer.calibration.students import StudentJob
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import JointRows
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.learned import rows_with_feedback
from foreseer.methods.validate import best_ridge
from foreseer.plan import Plan
from foreseer.schedule import Schedule

LEAST_WHOLE = 0.1  # sum of the branches' coefficients; 1 for classifier-free guidance


class Draft:
    """The plan as far as it is fitted; the rest reuses.

    Attributes:
        computed: the steps at which any branch computes.
        names: the branches' names, none where they share their rows.
        steps: for each branch its computed steps.
        may_weigh_start: whether rows may weigh the run's first sample: one network, and branches whose coefficients
            do not add up to 0.

    Raises:
        CalibrationError: branches would compute at different steps in a run of several networks.
    """

    def __init__(self, kernel: Kernel, rule: Schedule, job: StudentJob, provenance: dict[str, str]) -> None:
        self.computed = steps_by_network(rule, kernel.grid, job.handovers)
        self.names = job.names
        apart = rule.branch_steps(kernel.grid) if job.names else {}
        if apart and job.handovers:
            raise CalibrationError(
                f"Another network takes the run over at step {job.handovers[0]}: branches cannot compute at different "
                "steps there. Give nfe instead of forward_passes."
            )
        self.steps = [np.array(apart.get(name, self.computed)) for name in job.names or ("",)]
        self._whole = float(job.mixing.sum())
        self.may_weigh_start = not job.handovers and abs(self._whole) > LEAST_WHOLE
        self._grid = kernel.grid
        known = {name: kernel.provenance.get(name, "") for name in ("model", "denoiser")}
        self._provenance = {**provenance, **known}
        self._shared = rows_by_network(KernelRows(kernel), self.computed, kernel.grid, job.handovers)
        # With several networks, the rows of further tensors could use features of another network: they share rows.
        self._parts = {} if job.handovers else _rows_of_parts(kernel, self.computed)

    def plan(self, found: JointRows) -> Plan:
        """A plan of the present rows."""
        more = {"part_rows": self._parts, "start_row": None if found.start is None else found.start / self._whole}
        if not self.names:
            return Plan(self._grid, self.computed, found.rows[0], "output", self._provenance, **more)
        own = dict(zip(self.names, found.rows, strict=True))
        cross = {(self.names[b], self.names[c]): rows for (b, c), rows in found.cross.items()}
        of_branches = self._provenance, own, cross
        return Plan(self._grid, self.computed, self._shared, "output", *of_branches, **more)


def _rows_of_parts(kernel: Kernel, computed: tuple[int, ...]) -> Mapping[str, np.ndarray]:
    """Return the kernel's rows of further tensors, with error feedback and a cross-validated ridge."""
    if kernel.parts is None:
        return {}
    rows = rows_with_feedback(kernel)
    ridge = best_ridge(kernel, computed, feedback_gain=rows.feedback_gain).ridge
    return replace(rows, ridge=ridge).part_rows(computed, kernel.grid)
