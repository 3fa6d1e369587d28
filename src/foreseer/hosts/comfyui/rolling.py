"""Rollout in ComfyUI: rows fitted through the sampler's matrix, on runs that these rows have changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.single_run import Run
from foreseer.calibration.record import gram
from foreseer.calibration.rollout_moments import RIDGE, Moments, Share
from foreseer.forecast.joint_rows import JointRows
from foreseer.hosts.comfyui.patch import KEY, with_wrappers
from foreseer.kernel import Kernel
from foreseer.methods.learned import searches_with_feedback
from foreseer.methods.validate import typical_error
from foreseer.plan import Plan
from foreseer.schedule import Schedule


@dataclass(frozen=True)
class ReferenceRun:
    """A recorded run in which every step was computed.

    Attributes:
        features: one flattened tensor per step, in host memory.
        sample: the final sample.
    """

    features: list[Tensor]
    sample: Tensor


class _Stopped(BaseException):  # so that nothing on the way takes it for a failure
    """Ends a run after the step that was asked for, with the sample there."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class RolledRun:
    """Wrappers for one run under a plan, in which network outputs that are known are replayed.

    Args:
        plan: on the grid of the run, whose sampler calls the network once per level.
        features: by step, the known outputs; new ones are added.
        stop_at: the step after whose output the run ends; ``None`` runs to the end.

    Attributes:
        sample: the final sample; ``None`` for a run that was ended.
    """

    def __init__(self, plan: Plan, features: dict[int, Tensor], stop_at: int | None = None) -> None:
        self.sample: Tensor | None = None
        self._features = features
        self._levels = plan.grid.levels.tolist()
        self._run = Run(plan, plan.grid, warn=False)
        self._step = 0
        self._stop_at = stop_at

    def put_on(self, model: Any) -> Any:
        """A clone of ``model`` with these wrappers, in place of Foreseer's own."""
        return with_wrappers(model, self.sampler_sample, self.predict_noise)

    def sampler_sample(
        self, executor: Any, guider: Any, sigmas: Any, extra_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """SAMPLER_SAMPLE: one run."""
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options[KEY] = self
        try:
            self.sample = executor(guider, sigmas, extra_args, *args, **kwargs)
        except _Stopped as stopped:
            return stopped.x
        finally:
            options.pop(KEY, None)
            self._run.free()
        return self.sample

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """PREDICT_NOISE: forecast, replayed or computed."""
        if (model_options or {}).get("transformer_options", {}).get(KEY) is not self:
            return executor(x, timestep, model_options, *args, **kwargs)
        step, self._step = self._step, self._step + 1
        level = self._levels[step]
        forecast = self._run.forecast(step, onto=(x, -level))
        if forecast is not None:
            return forecast
        if step in self._features:
            feature = self._features[step].to(x).reshape(x.shape)
            denoised = x - level * feature
        else:
            denoised = executor(x, timestep, model_options, *args, **kwargs)
            feature = (x - denoised) / level
            self._features[step] = on_host(feature)
        if step == self._stop_at:
            raise _Stopped(x)
        self._run.computed(step, feature)
        return denoised


Sample = Callable[[RolledRun, int], Any]  # runs the sampler with the wrappers, on one of the conditionings


def roll_out(kernel: Kernel, references: Sequence[ReferenceRun], sample: Sample, nfe: int) -> Plan:
    """Fit a plan as :func:`foreseer.rollout` does; of the sets of steps found, the best.

    Args:
        kernel: of the references, with the sampler's matrix.
        references: one per conditioning.
        sample: runs the sampler with the wrappers of its first argument on the conditioning of that index.
        nfe: number of computed steps.
    """
    found = [_roll_out(kernel, references, sample, rule) for rule in searches_with_feedback(kernel, nfe=nfe)]
    return min(found, key=lambda one: one[0])[1]


def _roll_out(kernel: Kernel, references: Sequence[ReferenceRun], sample: Sample, rule: Schedule) -> tuple[float, Plan]:
    """Return the typical error of the final samples, as a mean square, and the plan."""
    assert kernel.sampler is not None
    computed, total = rule.on(kernel.grid), len(kernel.grid)
    moments = Moments.none(1, kernel.sampler, len(references))
    rows = JointRows(
        moments, np.ones(1), [np.array(computed)], total, ridge=RIDGE, branch_weight=0.0, feedback_gain=1.0
    )
    about = {"forecaster": f"rollout on {len(references)} runs, ridge {RIDGE:g}", "steps": str(total)}
    plan = Plan(kernel.grid, computed, rows.rows[0], "output", {**kernel.provenance, **about})
    features: list[dict[int, Tensor]] = [{} for _ in references]
    for step, end in itertools.pairwise((*computed, total)):
        for index, outputs in enumerate(features):
            sample(RolledRun(plan, outputs, stop_at=step), index)
        shares = [_share(moments, known, reference) for known, reference in zip(features, references, strict=True)]
        moments.grow(shares, [step])
        moments.weigh(rows.forecast, step)
        rows.fit(step, end)
        plan = replace(plan, rows=rows.rows[0].copy())
    return typical_error(moments.errors(rows.forecast, total)), plan


def final_error(
    plan: Plan, reference: ReferenceRun, sample: Sample, index: int, features: dict[int, Tensor] | None = None
) -> Tensor:
    """Relative error of the final sample under ``plan``, flattened, in float32 and host memory.

    Args:
        plan: on the grid of the references.
        reference: of the conditioning.
        sample: as for :func:`roll_out`.
        index: of the conditioning.
        features: known outputs by step; new ones are added.
    """
    run = RolledRun(plan, {} if features is None else features)
    sample(run, index)
    assert run.sample is not None
    truth = on_host(reference.sample)
    return (on_host(run.sample) - truth) / truth.norm()


def on_host(feature: Tensor) -> Tensor:
    """A feature flattened, in float32 and host memory."""
    return feature.detach().reshape(-1).to("cpu", torch.float32)


def _share(moments: Moments, known: dict[int, Tensor], reference: ReferenceRun) -> Share:
    """Inner products of the newest of a run's known features."""
    outputs = list(known.values())
    with_reference = gram(outputs[-1:], reference.features)
    effects = moments.matrix[:, 1:]
    squares = np.einsum("ei,ij,ej->e", effects, gram(reference.features, reference.features), effects)
    among = gram(outputs[-1:], outputs)
    return Share(among, with_reference, with_reference @ effects.T, squares, np.ones(1, np.int64))
