"""Calling diffusers pipelines of any class, and refusing calls before a pipeline is loaded."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreseer.checks import nearest_name
from foreseer.errors import ForeseerError, MissingPackageError, in_one_line
from foreseer.pipelines.call_source import parameters_in_source
from foreseer.pipelines.files_given import PICTURE, fitted, read_pictures
from foreseer.pipelines.loading import PipelineError, read_config, split_sampling
from foreseer.pipelines.outputs import not_finite
from foreseer.pipelines.sizes import check_sizes
from foreseer.zoo import sampling

PROMPTS = {"prompt", "class_labels"}
EMBEDDED = ("prompt_embeds", "pooled_prompt_embeds")
NEGATIVE = {"negative_prompt", "negative_prompt_embeds"}
PICTURE_NAMES = ("image", "control_image")
NAN_IN_CAST = "invalid value encountered in cast"  # numpy's warning


def check_call(folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Refuse what the model in ``folder`` is known not to take; nothing is loaded.

    Args:
        folder: the model's folder; only pictures are checked if it does not exist.
        options: options of the pipeline's call.
        defaults: further options that the call gets where it has them.

    Raises:
        PipelineError: a size is no multiple of the model's or out of range, a file is missing, or the pipeline's class
            (of diffusers) does not take an option or would drop the guidance.
    """
    pipeline = str(read_config(folder / "model_index.json").get("_class_name"))
    check_sizes(folder, pipeline, options)
    paths = (path for value in options.values() for path in (value if isinstance(value, list) else [value]))
    for path in paths:
        if isinstance(path, Path) and not path.exists():
            raise PipelineError(f"Cannot read the picture {path}: there is no such file.")
    accepted = parameters_in_source(pipeline)
    if accepted is not None:
        known = {**split_sampling(sampling(folder))[1], **(defaults or {})}
        known = {name: value for name, value in known.items() if name in accepted}
        _check_arguments(pipeline, {**known, **_named(options, pipeline, accepted)}, accepted)


def call_arguments(pipe: Any, prompt: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for one picture of ``prompt``.

    An empty prompt is left out where ``given`` holds embeddings, or where the pipeline takes none.

    Raises:
        PipelineError: the pipeline does not accept an option, or accepts neither a prompt nor a class label; an option
            sets the prompt or the generator, or asks for guidance that would be dropped; the class is unknown.
    """
    accepted = accepted_arguments(pipe)
    arguments = dict(given)
    if "output_type" not in accepted and (hasattr(pipe, "blocks") or arguments.get("output_type") == "latent"):
        arguments.pop("output_type", None)  # nothing to leave out: blocks without a decoder, or always decoded
    decided = [name for name in ("prompt", "class_labels", "generator") if name in given]
    if decided:
        raise PipelineError(f"{' and '.join(decided)}: prompts and seeds are given on their own; leave the option out.")
    _check_arguments(type(pipe).__name__, arguments, accepted)
    embedded = any(name.startswith(EMBEDDED) for name in given)
    if isinstance(prompt, str) and not prompt and (embedded or not PROMPTS & accepted.keys()):
        return arguments  # the embeddings are the prompt, or the pipeline draws without one
    if "prompt" in accepted:
        return {"prompt": prompt, **arguments}
    if "class_labels" in accepted:
        try:
            labels = [int(prompt)] if prompt.isdecimal() else pipe.get_label_ids([prompt])
            return {"class_labels": labels, **arguments}
        except (ValueError, KeyError, AttributeError) as error:
            raise PipelineError(
                f"{type(pipe).__name__} draws classes, and {prompt!r} is not one of them; give a name or a number."
            ) from error
    raise PipelineError(
        f"{type(pipe).__name__} takes neither a prompt nor class labels; give an empty prompt instead of {prompt!r}."
    )


def accepted_arguments(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call; of a modular pipeline, the inputs of its blocks."""
    blocks = getattr(pipe, "blocks", None)
    if blocks is None:
        return inspect.signature(pipe.__call__).parameters
    kind = inspect.Parameter.KEYWORD_ONLY
    named = {each.name: each for each in blocks.inputs if each.name}
    return {name: inspect.Parameter(name, kind, default=each.default) for name, each in named.items()}


def _check_arguments(pipeline: str, arguments: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]) -> None:
    """Refuse arguments that ``pipeline`` does not take or read, and guidance that it would drop."""
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        near = nearest_name(unknown[0], accepted)
        remedy = f": did you mean {near!r}? Otherwise leave the option out" if near else "; leave the option out"
        raise PipelineError(f"{pipeline} takes no {', '.join(unknown)}{remedy}.")
    for name, value in arguments.items():
        default = accepted[name].default
        if isinstance(value, str) and isinstance(default, int | float):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise PipelineError(f"{name} is {value!r}; {pipeline} expects {kind}.")
    _check_guidance({name: value for name, value in arguments.items() if value is not None}, accepted)


def _check_guidance(arguments: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]) -> None:
    """Refuse guidance of which diffusers would drop one half for want of the other."""
    wanted = arguments.get("true_cfg_scale", 0)
    if isinstance(wanted, int | float) and wanted > 1 and not NEGATIVE & arguments.keys():
        raise PipelineError(
            f"true_cfg_scale is {wanted:g}, and diffusers drops that guidance without a negative prompt: give one "
            "(negative_prompt, --negative; it may be empty)."
        )
    if "true_cfg_scale" not in accepted or not arguments.get("negative_prompt"):
        return
    scale = arguments.get("true_cfg_scale", accepted["true_cfg_scale"].default)
    if isinstance(scale, int | float) and scale <= 1:
        raise PipelineError(
            f"A negative prompt is given, and diffusers drops it where true_cfg_scale is {scale:g}: give more than 1 "
            "(--true-cfg)."
        )


def with_pictures(pipe: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with pictures and videos in place of their paths.

    That called ``PICTURE`` gets the name under which ``pipe`` takes one.

    Raises:
        PipelineError: ``pipe`` takes no picture, or a file is none.
    """
    read = fitted(pipe, read_pictures(options))
    return _named(read, type(pipe).__name__, accepted_arguments(pipe))


def _named(options: Mapping[str, Any], pipeline: str, accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """``options`` with the name of the call's picture argument in place of ``PICTURE``."""
    name = next((name for name in PICTURE_NAMES if name in accepted), None)
    if PICTURE in options and name is None:
        raise PipelineError(f"{pipeline} takes no picture; leave it out.")
    return {name if key == PICTURE and name else key: value for key, value in options.items()}


def run(pipe: Any, arguments: dict[str, Any], seed: int) -> Any:
    """One call of ``pipe``; ``seed`` also seeds what it draws without the generator that it is given.

    ``None`` if latents are asked for and the pipeline fails to return them once its steps are done.

    Raises:
        PipelineError: it refused an argument or failed, and what it said; where it takes a picture that was not given,
            that too. It drew NaN where it was to return a PIL picture.
        MissingPackageError: it needs a package that is not installed.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    accepted = accepted_arguments(pipe)
    pictures = [name for name in (*PICTURE_NAMES, "mask_image") if name in accepted and name not in arguments]
    grids = {name: part.timesteps for name, part in _schedulers(pipe)}
    try:
        with _seeded(seed), _numbers_only(type(pipe).__name__):
            return pipe(**arguments, generator=generator)
    except ForeseerError:
        raise
    except Exception as error:
        name, why = type(pipe).__name__, in_one_line(error)
        if arguments.get("output_type") == "latent" and any(
            part.timesteps is not grids.get(name) and part.step_index == len(part.timesteps)
            for name, part in _schedulers(pipe)
        ):
            return None  # the run is over: only its decoder does not return latents
        if isinstance(error, NameError) and _is_optional(error.name):
            raise MissingPackageError(f"{name} needs the package {error.name}: pip install {error.name}.") from error
        if pictures and not isinstance(error, RuntimeError):  # memory, sizes: a picture would not help
            raise PipelineError(
                f"{name} takes {' and '.join(pictures)}, none was given, and without it fails: {why}."
            ) from error
        raise PipelineError(f"{name} cannot draw this: {why}.") from error


def _schedulers(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Schedulers that count the steps of a run, by name."""
    for name, part in getattr(pipe, "components", {}).items():
        if hasattr(part, "timesteps") and hasattr(part, "step_index"):
            yield name, part


def _is_optional(package: str | None) -> bool:
    """Whether diffusers treats ``package`` as optional; some pipelines use it without checking."""
    from diffusers import utils

    return hasattr(utils, f"is_{package}_available")


@contextmanager
def _numbers_only(pipeline: str) -> Iterator[None]:
    """Refuse NaN that is about to become the black of a PIL picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", NAN_IN_CAST, RuntimeWarning)
        try:
            yield
        except RuntimeWarning as warning:
            raise not_finite(pipeline) from warning


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and restore them: rewriting a prompt, for one, draws from these."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
