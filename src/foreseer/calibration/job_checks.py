"""Checks of what every calibration job takes: prompts, seeds, teachers, folders, pipelines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreseer.attach.interception import is_hooked
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.loop_sampler import Sampler
from foreseer.checks import check_count, check_list, check_texts
from foreseer.errors import CalibrationError
from foreseer.files import reason
from foreseer.scale.model import LiveModel, model_of

DEFAULT_STEPS = 50
MOST_SEED = 2**62  # half of a generator's range, which leaves room for the seeds of the next prompts


def check_prompts(prompts: Any, name: str = "prompts", *, texts: bool = True) -> list[Any]:
    """Return ``prompts`` as a list; without ``texts``, the starts of an ``fs.Sampler`` may be of any kind.

    Raises:
        CalibrationError: it is something else; the message calls it ``name``.
    """
    if texts:
        return check_texts(name, prompts, CalibrationError)
    return check_list(name, prompts, CalibrationError, "a list of a few starts of the sampling loop")


def takes_texts(pipe: Any) -> bool:
    """Return whether prompts must be strings.

    They need not be for an ``fs.Sampler``, nor for the name of a function, which may return one.
    """
    model = model_of(pipe)
    return not isinstance(model.pipe, Sampler) if isinstance(model, LiveModel) else not model.is_function


def check_seed(seed: Any) -> int:
    """Return ``seed`` as an ``int``.

    Raises:
        CalibrationError: it is not a whole number from 0 to ``MOST_SEED``.
    """
    check_count("seed", seed, CalibrationError, most=MOST_SEED)
    return int(seed)


def check_teacher(teacher_steps: Any, steps: int) -> int | None:
    """Return the number of steps of a reference run that is at least as fine as a run of ``steps`` steps.

    Raises:
        CalibrationError: it is not a whole number of at least ``steps``, nor ``None``.
    """
    if teacher_steps is None:
        return None
    check_count("teacher_steps", teacher_steps, CalibrationError, least=steps)
    return int(teacher_steps)


def make_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of a checkpoint; it is created where it is missing.

    Raises:
        CalibrationError: it cannot be created or written to.
    """
    if folder is None:
        return None
    name = repr(str(folder))
    try:
        path = Path(os.fsdecode(folder))
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, TypeError) as error:
        raise CalibrationError(f"Cannot keep a checkpoint in {name}: {reason(error)}. Name a folder.") from error
    if not os.access(path, os.W_OK):
        raise CalibrationError(f"Cannot keep a checkpoint in {name}: permission denied. Name another folder.")
    return path


def check_ready(
    pipe: Any,
    prompts: Any,
    seed: Any = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    named: bool = False,
) -> tuple[list[Any], int, Path | None]:
    """Check what every job on a pipeline takes; return the prompts, the seed and the checkpoint's folder.

    Args:
        pipe: a pipeline.
        prompts: of the job.
        seed: of the first prompt.
        checkpoint: a folder.
        named: whether ``pipe`` may be a name, from which workers build their pipelines and check them.

    Raises:
        CalibrationError: as :func:`check_prompts`, :func:`check_seed`, :func:`check_pipeline` and :func:`make_folder`.
    """
    prompts, seed = check_prompts(prompts, texts=takes_texts(pipe)), check_seed(seed)
    model = model_of(pipe)
    if isinstance(model, LiveModel) or not named:
        check_pipeline(model.pipe if isinstance(model, LiveModel) else pipe)
    return prompts, seed, make_folder(checkpoint)


def check_pipeline(pipe: Any) -> None:
    """Raise unless ``pipe`` can be calibrated on.

    Raises:
        CalibrationError: no scheduler, or a policy is attached.
    """
    if getattr(pipe, "scheduler", None) is None:
        raise CalibrationError(f"{type(pipe).__name__} has no scheduler; expected a diffusers pipeline.")
    if any(is_hooked(module) for module in find_denoisers(pipe).values()):
        raise CalibrationError("A policy is attached: detach its handle first, since calibration computes every step.")


def split_prompts(
    prompts: Sequence[Any], held_out: int | Sequence[Any] | None, seed: int
) -> tuple[list[tuple[int, Any]], list[tuple[int, Any]]]:
    """Seeds and prompts to fit on, and those held out, which have the later seeds.

    Raises:
        CalibrationError: one of the two would be empty.

    >>> split_prompts(["a", "b", "c"], 1, seed=5)
    ([(5, 'a'), (6, 'b')], [(7, 'c')])
    """
    if held_out is None:
        held_out = max(1, len(prompts) // 4)
    if not isinstance(held_out, Sequence):
        check_count("held_out", held_out, CalibrationError, least=1)
        if held_out >= len(prompts):
            raise CalibrationError(
                f"{held_out} of {len(prompts)} prompts are held out, and none is left to fit on: give more prompts."
            )
        held_out, prompts = prompts[len(prompts) - held_out :], prompts[: len(prompts) - held_out]
    held_out = check_prompts(held_out, "held_out", texts=isinstance(prompts[0], str))
    seeded = list(enumerate([*prompts, *held_out], seed))
    return seeded[: len(prompts)], seeded[len(prompts) :]


def default_steps(pipe: Any) -> int:
    """Steps of reference runs: those of an ``fs.Sampler``, else 50."""
    return pipe.steps if isinstance(pipe, Sampler) else DEFAULT_STEPS
