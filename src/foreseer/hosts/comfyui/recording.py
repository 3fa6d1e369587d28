"""Recording runs of a ComfyUI sampler, and the profile learned from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.calibration.error_derivatives import relative_rounding
from foreseer.calibration.record import gram
from foreseer.errors import ForeseerError
from foreseer.grid import Grid
from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.levels import step_at
from foreseer.hosts.comfyui.matrix import sampler_matrix
from foreseer.hosts.comfyui.patch import KEY, with_wrappers
from foreseer.hosts.comfyui.refining import Refinement
from foreseer.hosts.comfyui.rolling import ReferenceRun, Sample, on_host
from foreseer.kernel import Kernel
from foreseer.methods.profile import Profile

SPEEDUPS = (2.0, 3.0, 4.0)


class RecordError(ForeseerError, RuntimeError):
    """A recorded run cannot become a profile."""


class Recording:
    """Wrappers that record the feature at every level of each run; every step computes.

    Args:
        keep: whether the runs are kept, as a rollout needs them.

    Attributes:
        grams: one matrix per recorded run.
        references: the recorded runs, if they are kept.
    """

    def __init__(self, keep: bool = False) -> None:
        self.grams: list[np.ndarray] = []
        self.references: list[ReferenceRun] = []
        self._keep = keep
        self._final_squares: list[float] = []
        self._grid: Grid | None = None
        self._matrix: np.ndarray | None = None

    def sampler_sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """SAMPLER_SAMPLE: record one run.

        Raises:
            RecordError: its levels are not those of the runs before, or not all of them were visited.
            GridError: its levels do not decrease.
        """
        levels = [float(sigma) for sigma in sigmas.tolist()]
        grid = Grid(levels[:-1], "sigma", final_level=levels[-1])
        if self._grid is None:
            self._grid, self._matrix = grid, sampler_matrix(executor.class_obj, guider, sigmas)
        elif not self._grid.matches(grid):
            raise RecordError(
                "The runs have different noise levels; record with one sampler, scheduler and step count."
            )
        features: list[Tensor | None] = [None] * len(grid)
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options[KEY] = features
        try:
            sample = executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            options.pop(KEY, None)
        kept = [feature for feature in features if feature is not None]
        if len(kept) < len(grid):
            raise RecordError(
                f"The sampler visited {len(kept)} of {len(grid)} noise levels, so nothing can be learned."
            )
        self.grams.append(gram(kept, kept))
        if self._keep and self._matrix is not None:
            self.references.append(ReferenceRun([on_host(feature) for feature in kept], sample))
        self._final_squares.append(float(sample.double().square().mean()))
        return sample

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        r"""PREDICT_NOISE: keep $F = (x - D) / \sigma$ of the first call at each level."""
        denoised = executor(x, timestep, model_options, *args, **kwargs)
        features = (model_options or {}).get("transformer_options", {}).get(KEY)
        if features is not None:
            assert self._grid is not None
            level = float(timestep.reshape(-1)[0])
            step = step_at(self._grid.levels.tolist(), level)
            if step is not None and features[step] is None:
                features[step] = ((x - denoised) / level).detach().reshape(-1).to(torch.float32)
        return denoised

    def put_on(self, model: Any) -> Any:
        """A clone of ``model`` with these wrappers, in place of Foreseer's own."""
        return with_wrappers(model, self.sampler_sample, self.predict_noise)

    def kernel(self, provenance: Mapping[str, str]) -> Kernel:
        """What was learned: second moments of the features, and the sampler's matrix if it has one.

        Raises:
            RecordError: nothing was recorded.
        """
        if self._grid is None or not self.grams:
            raise RecordError("Nothing was recorded: no sampler ran on the recording model.")
        return Kernel(
            self._grid,
            np.stack(self.grams),
            sampler=self._matrix,
            final_squares=np.array(self._final_squares),
            provenance={"steps": str(len(self._grid)), **provenance},
        )

    def profile(
        self,
        provenance: Mapping[str, str],
        sample: Sample,
        iterations: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Profile:
        """The kernel, with refined plans at a few speedups where they can be fitted.

        The sampler must have a matrix, and two runs or more must have been kept.

        Args:
            provenance: text about model, sampler and options.
            sample: runs the sampler on a conditioning with other wrappers, as for :func:`roll_out`.
            iterations: of Gauss-Newton on all rows together, at most.
            dtype: in which the network computes.

        Raises:
            RecordError: nothing was recorded.
        """
        kernel = self.kernel(provenance)
        budgets = [round(len(kernel.grid) / speedup) for speedup in SPEEDUPS] if len(self.references) > 1 else []
        refinement = Refinement(kernel, self.references, sample, iterations, relative_rounding(dtype))
        plans = [refinement.plan(nfe) for nfe in dict.fromkeys(budgets) if nfe > 1]
        return Profile(kernel, tuple(plan for plan in plans if plan is not None), kernel.provenance)


def summarise(profile: Profile) -> str:
    """Expected errors of a profile at a few speedups, as text."""
    kernel = profile.kernel
    grid = kernel.grid
    matrix = "with" if kernel.sampler is not None else "without"
    lines = [f"{kernel.prompts} runs of {len(grid)} steps, {matrix} the sampler's matrix"]
    for speedup in SPEEDUPS:
        choice = Choice(profile=profile, speedup=speedup)
        policy = choice.policy(grid)
        error = choice.expected_error(grid)
        if policy is not None and error is not None:
            rows = "refined" if any(policy.compile(grid) is plan for plan in profile.plans) else "kernel"
            lines.append(f"speedup {speedup:g}: {100 * error:.1f} % expected error of the final latent ({rows} rows)")
    return "\n".join(lines)
