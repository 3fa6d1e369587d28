"""`calibrate`: from a few prompts to a kernel."""

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
from foreseer.calibration.branches import BranchRecorder, NotMixedError, record_branches
from foreseer.calibration.identity import identity_of
from foreseer.calibration.inside import Inside, record_inside
from foreseer.calibration.record import Trajectory, gram, record_run
from foreseer.calibration.response import measure_response
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.checks import check_count
from foreseer.errors import ForeseerError, PlanError
from foreseer.kernel import Kernel
from foreseer.kernel.parts import balanced
from foreseer.pipelines import call_arguments, run
from foreseer.site import Output, Site, read_site

RESPONSE_PROMPTS = 4


class CalibrationError(ForeseerError, ValueError):
    """No prompts, runs that do not belong together, or a checkpoint of another calibration."""


def calibrate(
    pipe: Any,
    prompts: Sequence[str],
    *,
    num_inference_steps: int = 50,
    seed: int = 0,
    site: str | Site = "output",
    response_prompts: int = RESPONSE_PROMPTS,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Kernel:
    """Run ``pipe`` on each prompt with every step computed, and keep the second moments of its outputs.

    What is recorded is what the scheduler is given: with classifier-free guidance, the guided combination, which is
    what counts for the error. Where guidance calls the denoiser once a branch, and combines the branches linearly,
    their own moments are kept too, so that each can have its own rows. One prompt's trajectory is held at a time.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompts: a handful will do; 4 are within about 1 dB of 64.
        num_inference_steps: T, the grid of the kernel; plans can be made for other step counts too.
        seed: of the first prompt's initial noise; the next has the next.
        site: where features are taken (`foreseer.site`): ``"output"``; ``"last_block"``, whose forecasts still pass the
            network's head with the current timestep; ``"modules"``, each of which has rows of its own moments. Rollout
            is for the output only.
        response_prompts: on how many of the prompts to measure, by a few accelerated runs, how strongly the network
            answers an error; 0 for a usual value. See :func:`foreseer.calibration.response.measure_response`.
        checkpoint: a file that is written after each prompt; found there again, its prompts are not run again.
        progress: called with (prompts done, prompts in all), those that the response is measured on counted again.
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Raises:
        CalibrationError: there is no prompt, or the checkpoint belongs to another calibration.
        KernelError: an output was not finite.
    """
    check_ready(pipe, prompts)
    _check_options(num_inference_steps, response_prompts, site, options)
    place = read_site(site)
    recording = record_branches if isinstance(place, Output) else partial(record_inside, site=place)
    identity = {**identity_of(pipe, prompts, num_inference_steps, seed, options), "site": str(place)}
    kernel = _resume(checkpoint, identity)
    show = progress or (lambda done, total: None)
    measured = prompts[:response_prompts]
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
        kernel = measure_response(
            pipe, kernel, measured, seed=seed, progress=lambda done: show(len(prompts) + done, total), **arguments
        )
    show(total, total)
    return kernel


def _check_options(steps: int, response_prompts: int, site: str | Site, options: dict[str, Any]) -> None:
    check_count("num_inference_steps", steps, CalibrationError, least=2)
    check_count("response_prompts", response_prompts, CalibrationError)
    try:
        read_site(site)
    except PlanError as error:
        raise CalibrationError(str(error)) from error


def check_ready(pipe: Any, prompts: Sequence[str]) -> None:
    """Refuse what cannot be calibrated on.

    Raises:
        CalibrationError: no prompts or a single string, no scheduler, or a policy is attached.
    """
    if isinstance(prompts, str) or not prompts:
        raise CalibrationError("Calibration takes a list of prompts; a handful will do.")
    if getattr(pipe, "scheduler", None) is None:
        raise CalibrationError(f"{type(pipe).__name__} is no pipeline with a scheduler.")
    if any(is_hooked(module) for module in find_denoisers(pipe).values()):
        raise CalibrationError("A policy is attached: detach its handle first, calibration computes every step.")


def _kernel_of(trajectory: Trajectory, recorder: BranchRecorder | Inside, identity: dict[str, str]) -> Kernel:
    grid = trajectory.grid
    if len(trajectory.outputs) != len(grid) or trajectory.sample is None:
        raise CalibrationError(
            f"The run took {len(trajectory.outputs)} scheduler steps, its grid has {len(grid)}: this pipeline does not "
            "step its scheduler once a noise level."
        )
    squares = np.array([float(trajectory.sample.double().square().mean())])
    matrix = None
    provenance = dict(identity)
    try:
        matrix = sampler_matrix(trajectory.scheduler, first_step=trajectory.first_step)
    except SamplerError as error:
        provenance["sampler"] = str(error)
    if isinstance(recorder, Inside):
        parts = recorder.parts()
        if parts is None:
            raise CalibrationError(f"There is no kernel of the site {identity['site']!r}: {recorder.trouble}.")
        outputs = np.array([[float(output.double().square().mean()) for output in trajectory.outputs]])
        whole = parts.names == ("",)
        grams = parts.grams if whole else balanced(parts.grams)[None]
        return Kernel(
            grid,
            grams,
            matrix,
            squares,
            identity["site"],
            provenance,
            output_squares=outputs,
            parts=None if whole else parts,
        )
    branches = None
    try:
        branches = recorder.branches()
    except NotMixedError as error:
        provenance["branches"] = f"share their rows: {error}"
    grams = gram(trajectory.outputs, trajectory.outputs)[None]
    return Kernel(grid, grams, matrix, squares, "output", provenance, branches=branches)


def _joined(kernel: Kernel | None, one: Kernel) -> Kernel:
    """``kernel`` with one prompt more, its identity unchanged; the first prompt's alone where there is none yet."""
    if kernel is None:
        return one
    merged = kernel.merge(one, may_share=True)
    words = {name: kernel.provenance[name] for name in ("prompts", "prompts_hash")}
    return replace(merged, provenance={**merged.provenance, **words})


def _resume(checkpoint: str | os.PathLike[str] | None, identity: dict[str, str]) -> Kernel | None:
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    kernel = Kernel.load(checkpoint)
    differing = [key for key, value in identity.items() if kernel.provenance.get(key) != value]
    if differing:
        raise CalibrationError(
            f"{os.fspath(checkpoint)} belongs to another calibration ({', '.join(differing)} differ): remove it, or "
            "name another file."
        )
    return kernel
