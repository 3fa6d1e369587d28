"""`calibrate`: record a kernel from a few prompts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from foreseer.calibration.branch_recorder import BranchRecorder, NotMixedError, record_branches
from foreseer.calibration.identity import fingerprint, text_of
from foreseer.calibration.job_checks import check_ready, default_steps
from foreseer.calibration.jobs import PromptRuns, Work, content, prompt_unit
from foreseer.calibration.record import Trajectory, gram, record_run
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.calibration.sensitivity import measure_sensitivity
from foreseer.calibration.site_recorder import NoMomentsError, SiteRecorder, record_site
from foreseer.checks import check_count
from foreseer.errors import CalibrationError, PlanError
from foreseer.kernel import Kernel
from foreseer.kernel.kernel_file import decode_kernel, encode_kernel
from foreseer.kernel.parts import Parts, PartsError, balanced
from foreseer.pipelines import call_arguments, run
from foreseer.scale import FolderStore, MemoryStore, Place, Task, Unit, Worker, model_of, place_of, run_units
from foreseer.site import Output, Site, read_site

SENSITIVITY_PROMPTS = 4


def calibrate(
    pipe: Any,
    prompts: Any,
    *,
    num_inference_steps: int | None = None,
    seed: int = 0,
    site: str | Site = "output",
    sensitivity_prompts: int = SENSITIVITY_PROMPTS,
    checkpoint: str | os.PathLike[str] | None = None,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Kernel:
    """Run ``pipe`` on each prompt with every step computed, and return the second moments of its outputs.

    Recorded are the outputs passed to the scheduler: with classifier-free guidance, the guided combination. If guidance
    calls the denoiser once per branch and combines the branches linearly, their moments are recorded too, so that
    each branch can have separate rows. If the network returns several tensors (video and sound), the moments of each
    further one are recorded as well, so that it has separate rows. Memory holds one prompt's trajectory at a time.

    A scheduler that visits noise levels more than once (Heun, PNDM) has a step for each call of the network, and rows
    combine all visits. If a call makes several runs (chunks of a video, a second stage), the first is recorded.

    Args:
        pipe: a diffusers pipeline, not attached; or an ``fs.Sampler``; or, as workers need it, a name from which they
            build their own: see :class:`foreseer.scale.Model`.
        prompts: a few, or a single one; 4 are within about 1 dB of 64. Starts, if ``pipe`` is an ``fs.Sampler``.
        num_inference_steps: number of steps T of the kernel's grid, by default 50, or those of an ``fs.Sampler``; the
            kernel serves other step counts too.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        site: where features are taken (`foreseer.site`): ``"output"``; ``"last_block"``, with the network's head run at
            every step; or ``"modules"``, with separate moments per module. Rollout needs ``"output"``.
        sensitivity_prompts: number of prompts on which to measure the network's sensitivity to errors, with a few
            accelerated runs; 0 for a typical value. See :func:`foreseer.calibration.sensitivity.measure_sensitivity`.
        checkpoint: folder with a file per prompt that was run; an interrupted calibration resumes from it.
        workers: where prompts are run: a number of processes on this machine, or a :class:`foreseer.scale.Place`; by
            default this process. The kernel is equal bit for bit.
        progress: called with (prompts done, total prompts); prompts of the sensitivity measurement count again.
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Raises:
        CalibrationError: there is no prompt, or the workers' pipelines differ.
        ScaleError: workers cannot be started, or are lost again and again.
        KernelError: an output is not finite.
    """
    prompts = [prompts] if isinstance(prompts, str) and prompts else prompts
    num_inference_steps = default_steps(pipe) if num_inference_steps is None else num_inference_steps
    _check_options(num_inference_steps, sensitivity_prompts, site)
    place = str(read_site(site))
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    store = FolderStore(folder) if folder is not None else MemoryStore()
    measured = prompts[:sensitivity_prompts]
    show = Work(progress, len(prompts) + len(measured)).reach
    with place_of(workers).pool() as pool:
        runs = PromptRuns(model_of(pipe), num_inference_steps, options).identified(pool, len(prompts))
        units = [
            prompt_unit("kernel", index, prompt, seed + index, {**runs.identity, "site": place})
            for index, prompt in enumerate(prompts)
        ]
        results = run_units(
            pool, RecordPrompt(runs, place), units, store=store, progress=lambda done, total, state: show(done)
        )
        whole = {
            "seed": str(seed),
            "prompts": str(len(prompts)),
            "prompts_hash": fingerprint("\n".join(map(text_of, prompts))),
        }
        kernel = _merged([decode_kernel(content(result), Kernel) for result in results], {**whole, "site": place})
        if measured:
            counted = lambda done, total, state: show(len(prompts) + done)  # noqa: E731
            kernel = measure_sensitivity(pool, runs, kernel, measured, seed=seed, store=store, progress=counted)
    return kernel


def _check_options(steps: int, sensitivity_prompts: int, site: str | Site) -> None:
    check_count("num_inference_steps", steps, CalibrationError, least=2)
    check_count("sensitivity_prompts", sensitivity_prompts, CalibrationError)
    try:
        read_site(site)
    except PlanError as error:
        raise CalibrationError(str(error)) from error


@dataclass(frozen=True)
class RecordPrompt(Task):
    """Run a prompt with every step computed; the result is the file of a kernel of this prompt."""

    runs: PromptRuns
    site: str

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One prompt, one kernel."""
        prompt, seed = unit.payload
        pipe, options = self.runs.on(worker)
        identity = {**self.runs.identity, "site": self.site}
        site = read_site(self.site)
        recording = record_branches if isinstance(site, Output) else partial(record_site, site=site)
        call = call_arguments(pipe, prompt, self.runs.call(options))
        with record_run(pipe) as trajectory, recording(pipe, trajectory) as recorder:
            run(pipe, call, seed)
        return encode_kernel(_kernel_of(trajectory, recorder, identity))


def _kernel_of(trajectory: Trajectory, recorder: BranchRecorder | SiteRecorder, identity: dict[str, str]) -> Kernel:
    grid = trajectory.grid
    if len(trajectory.outputs) != len(grid) or trajectory.sample is None:
        steps = len(trajectory.outputs)
        early = "the run ended early (a callback that interrupts it?), or " if 0 < steps < len(grid) else ""
        raise CalibrationError(
            f"The run took {steps} scheduler steps, its grid has {len(grid)}: {early}this pipeline leaves steps out, "
            "and rows cannot be learned on it. Use a method that needs no calibration (foreseer methods)."
        )
    squares = np.array([float(trajectory.sample.double().square().mean())])
    if not (np.isfinite(squares).all() and squares.all()):
        raise CalibrationError(
            "The run ended with a sample that is not finite (NaN), or all zeros: there is nothing to learn from. Try "
            "float32, and the sizes and the number of frames that the model was made for."
        )
    matrix = None
    provenance = {**identity, "guidance": trajectory.guidance}
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
        if single:
            parts = _further_tensors(recorder, provenance)
        return Kernel(
            grid,
            grams,
            matrix,
            squares,
            identity["site"],
            provenance,
            output_squares=outputs,
            parts=parts,
        )
    branches, parts = None, _further_tensors(recorder, provenance)
    try:
        branches = recorder.branches() if "tensors" not in provenance else None
    except NotMixedError as error:
        provenance["branches"] = f"share their rows: {error}"
    grams = gram(trajectory.outputs, trajectory.outputs)[None]
    return Kernel(grid, grams, matrix, squares, "output", provenance, branches=branches, parts=parts)


def _further_tensors(recorder: BranchRecorder | SiteRecorder, provenance: dict[str, str]) -> Parts | None:
    """Return the moments of further tensors of the feature.

    Why tensors must share the rows of the first is added to ``provenance``. Branches then share their rows too: rows
    whose errors cancel in the guided combination of one tensor do not suit another.
    """
    try:
        return recorder.further_tensors()
    except (NoMomentsError, PartsError) as error:
        provenance["tensors"] = f"share the rows of the first: {error}"
        if isinstance(recorder, BranchRecorder):
            provenance["branches"] = "share their rows, since the tensors of the output do"
        return None


def _merged(kernels: list[Kernel], whole: dict[str, str]) -> Kernel:
    """Merge kernels in the order of their prompts; ``whole`` is the provenance of all prompts together."""
    merged = replace(kernels[0], provenance={**kernels[0].provenance, **whole})
    for kernel in kernels[1:]:
        merged = merged.merge(kernel, allow_overlap=True)
    return replace(merged, provenance={**merged.provenance, **whole})
