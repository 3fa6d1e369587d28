"""`calibrate`: record a kernel from a few prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.attach.interception import is_hooked
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.branch_recorder import BranchRecorder, NotMixedError, record_branches
from foreseer.calibration.identity import identity_of
from foreseer.calibration.record import Trajectory, gram, record_run
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.calibration.sensitivity import measure_sensitivity
from foreseer.calibration.site_recorder import SiteRecorder, record_site
from foreseer.checks import check_count
from foreseer.errors import ForeseerError, PlanError
from foreseer.kernel import Kernel
from foreseer.kernel.parts import balanced
from foreseer.pipelines import call_arguments, run
from foreseer.site import Output, Site, read_site

SENSITIVITY_PROMPTS = 4


class CalibrationError(ForeseerError, ValueError):
    """Calibration is impossible: no prompts, an unsuitable pipeline, or another calibration's checkpoint."""


def calibrate(
    pipe: Any,
    prompts: Sequence[str],
    *,
    num_inference_steps: int = 50,
    seed: int = 0,
    site: str | Site = "output",
    sensitivity_prompts: int = SENSITIVITY_PROMPTS,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Kernel:
    """Run ``pipe`` on each prompt with every step computed, and return the second moments of its outputs.

    Recorded are the outputs passed to the scheduler: with classifier-free guidance, the guided combination. If guidance
    calls the denoiser once per branch and combines the branches linearly, their moments are recorded too, so that
    each branch can have separate rows. Memory holds one prompt's trajectory at a time.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompts: a few; 4 are within about 1 dB of 64.
        num_inference_steps: number of steps T of the kernel's grid; the kernel serves other step counts too.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        site: where features are taken (`foreseer.site`): ``"output"``; ``"last_block"``, with the network's head run at
            every step; or ``"modules"``, with separate moments per module. Rollout needs ``"output"``.
        sensitivity_prompts: number of prompts on which to measure the network's sensitivity to errors, with a few
            accelerated runs; 0 for a typical value. See :func:`foreseer.calibration.sensitivity.measure_sensitivity`.
        checkpoint: file written after each prompt; an interrupted calibration resumes from it.
        progress: called with (prompts done, total prompts); prompts of the sensitivity measurement count again.
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Raises:
        CalibrationError: there is no prompt, or the checkpoint belongs to another calibration.
        KernelError: an output is not finite.
    """
    check_ready(pipe, prompts)
    _check_options(num_inference_steps, sensitivity_prompts, site, options)
    place = read_site(site)
    recording = record_branches if isinstance(place, Output) else partial(record_site, site=place)
    identity = {**identity_of(pipe, prompts, num_inference_steps, seed, options), "site": str(place)}
    kernel = _resume(checkpoint, identity)
    show = progress or (lambda done, total: None)
    measured = prompts[:sensitivity_prompts]
    total = len(prompts) + len(measured)
    arguments = {**options, "num_inference_steps": num_inference_steps, "output_type": "latent"}
    for index in range(0 if kernel is None else kernel.prompts, len(prompts)):
        show(index, total)
        call = call_arguments(pipe, prompts[index], arguments)
        with record_run(pipe) as trajectory, recording(pipe, trajectory) as recorder:
            run(pipe, call, seed + index)
        kernel = _joined(kernel, _kernel_of(trajectory, recorder, identity))
        if checkpoint is not None:
            kernel.save(checkpoint)
    assert kernel is not None
    if measured:
        kernel = measure_sensitivity(
            pipe, kernel, measured, seed=seed, progress=lambda done: show(len(prompts) + done, total), **arguments
        )
    show(total, total)
    return kernel


def _check_options(steps: int, sensitivity_prompts: int, site: str | Site, options: dict[str, Any]) -> None:
    check_count("num_inference_steps", steps, CalibrationError, least=2)
    check_count("sensitivity_prompts", sensitivity_prompts, CalibrationError)
    try:
        read_site(site)
    except PlanError as error:
        raise CalibrationError(str(error)) from error


def check_ready(pipe: Any, prompts: Sequence[str]) -> None:
    """Raise unless ``pipe`` and ``prompts`` are suitable for calibration.

    Raises:
        CalibrationError: no prompts or a single string, no scheduler, or a policy is attached.
    """
    if isinstance(prompts, str) or not prompts:
        raise CalibrationError(f"prompts is {prompts!r}; expected a list of a few prompts.")
    if getattr(pipe, "scheduler", None) is None:
        raise CalibrationError(f"{type(pipe).__name__} has no scheduler; expected a diffusers pipeline.")
    if any(is_hooked(module) for module in find_denoisers(pipe).values()):
        raise CalibrationError("A policy is attached: detach its handle first, since calibration computes every step.")


def _kernel_of(trajectory: Trajectory, recorder: BranchRecorder | SiteRecorder, identity: dict[str, str]) -> Kernel:
    grid = trajectory.grid
    if len(trajectory.outputs) != len(grid) or trajectory.sample is None:
        raise CalibrationError(
            f"The run took {len(trajectory.outputs)} scheduler steps, its grid has {len(grid)}: this pipeline does not "
            "step its scheduler once per noise level."
        )
    squares = np.array([float(trajectory.sample.double().square().mean())])
    matrix = None
    provenance = dict(identity)
    try:
        matrix = sampler_matrix(trajectory.scheduler, first_step=trajectory.first_step)
    except SamplerError as error:
        provenance["sampler"] = str(error)
    if isinstance(recorder, SiteRecorder):
        parts = recorder.parts()
        if parts is None:
            raise CalibrationError(f"The site {identity['site']!r} cannot be calibrated: {recorder.trouble}.")
        outputs = np.array([[float(output.double().square().mean()) for output in trajectory.outputs]])
        single = parts.names == ("",)
        grams = parts.grams if single else balanced(parts.grams)[None]
        return Kernel(
            grid,
            grams,
            matrix,
            squares,
            identity["site"],
            provenance,
            output_squares=outputs,
            parts=None if single else parts,
        )
    branches = None
    try:
        branches = recorder.branches()
    except NotMixedError as error:
        provenance["branches"] = f"share their rows: {error}"
    grams = gram(trajectory.outputs, trajectory.outputs)[None]
    return Kernel(grid, grams, matrix, squares, "output", provenance, branches=branches)


def _joined(kernel: Kernel | None, new: Kernel) -> Kernel:
    """Add one prompt's kernel, keeping the identity of the whole calibration."""
    if kernel is None:
        return new
    merged = kernel.merge(new, allow_overlap=True)
    identity = {name: kernel.provenance[name] for name in ("prompts", "prompts_hash")}
    return replace(merged, provenance={**merged.provenance, **identity})


def _resume(checkpoint: str | os.PathLike[str] | None, identity: dict[str, str]) -> Kernel | None:
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    kernel = Kernel.load(checkpoint)
    differing = [key for key, value in identity.items() if kernel.provenance.get(key) != value]
    if differing:
        raise CalibrationError(
            f"{os.fspath(checkpoint)} belongs to another calibration ({', '.join(differing)} differ): delete it, or "
            "name another file."
        )
    return kernel
