"""Loading and calling diffusers pipelines whose class nobody named beforehand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foreseer import zoo
from foreseer.errors import ForeseerError, in_one_line
from foreseer.files import read_text, reason

NEGATIVE = {"negative_prompt", "negative_prompt_embeds"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST_PROMPTS, MOST_PROMPT_BYTES = 100_000, 2**24
_LINE = re.compile(r"[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


class PipelineError(ForeseerError, ValueError):
    """A pipeline cannot be loaded, or does not take an option that was given."""


def load_pipeline(model: str, dtype: str | None = None, device: str | None = None) -> tuple[Any, dict[str, Any]]:
    """A pipeline by the name of a bundled one, a local folder or a hub id; and how its folder says to call it.

    Args:
        model: ``"emoji"``, a folder with a ``model_index.json``, or a hub id.
        dtype: a name in ``DTYPES``; by default bfloat16 on a GPU and float32 elsewhere.
        device: by default the GPU where there is one.

    Raises:
        PipelineError: it cannot be found or loaded, or the dtype is unknown.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise PipelineError(f"Unknown dtype {dtype!r}: expected one of {', '.join(DTYPES)}.")
    folder = zoo.path(model) if model in zoo.NAMES else Path(model)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise PipelineError(f"{folder} holds no model_index.json: it is not a diffusers pipeline's folder.")
    try:
        pipe = _from_pretrained(str(folder) if folder.is_dir() else model, DTYPES[dtype])
    except (OSError, ValueError, ImportError) as error:
        reason = in_one_line(error)
        raise PipelineError(
            f"Cannot load {model!r} ({reason}). Give a bundled pipeline ({', '.join(zoo.NAMES)}), a folder in "
            "diffusers' format, or a hub id that this machine can reach."
        ) from error
    try:
        pipe = pipe.to(device)
    except (RuntimeError, AssertionError) as error:
        raise PipelineError(f"Cannot move {model!r} to {device!r}: {in_one_line(error)}.") from error
    return pipe, zoo.sampling(folder) if folder.is_dir() else {}


def quiet_libraries() -> None:
    """Keep a bar for each component and a line for each optional import from drowning what the user asked for."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _from_pretrained(model: str, dtype: torch.dtype) -> Any:
    import diffusers

    quiet_libraries()
    keyword = "dtype" if version_of(diffusers.__version__) >= (0, 42) else "torch_dtype"
    return diffusers.DiffusionPipeline.from_pretrained(model, **{keyword: dtype})


def version_of(words: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare.

    >>> version_of("0.42.1.dev0") >= (0, 42)
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", words)[:3])


def split_sampling(sampling: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The example prompts of a pipeline's ``sampling.json``, and its options for a call."""
    return list(sampling.get("prompts", [])), {key: value for key, value in sampling.items() if key != "prompts"}


def call_arguments(pipe: Any, prompt: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments for one picture of ``prompt``, ``None`` values left out.

    Raises:
        PipelineError: the pipeline takes no such option, and none for words; an option is what is drawn itself, or
            asks for guidance that would be dropped.
    """
    accepted = inspect.signature(pipe.__call__).parameters
    arguments = {name: value for name, value in given.items() if value is not None}
    decided = [name for name in ("prompt", "class_labels", "generator") if name in given]
    if decided:
        raise PipelineError(f"{' and '.join(decided)}: prompts and seeds are given on their own; leave the option out.")
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        raise PipelineError(f"{type(pipe).__name__} takes no {', '.join(unknown)}; leave the option out.")
    _check_guidance(arguments, accepted)
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
    raise PipelineError(f"{type(pipe).__name__} takes neither a prompt nor class labels.")


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


PICTURE = "picture"
PICTURE_NAMES = ("image", "control_image")


def with_pictures(pipe: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with pictures in place of their paths.

    That called ``PICTURE`` gets the name under which ``pipe`` takes one.

    Raises:
        PipelineError: ``pipe`` takes no picture, or a file is none.
    """
    return {
        _picture_name(pipe) if name == PICTURE else name: _picture(value) if isinstance(value, Path) else value
        for name, value in options.items()
    }


def _picture_name(pipe: Any) -> str:
    accepted = inspect.signature(pipe.__call__).parameters
    name = next((name for name in PICTURE_NAMES if name in accepted), None)
    if name is None:
        raise PipelineError(f"{type(pipe).__name__} takes no picture; leave it out.")
    return name


def _picture(path: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise PipelineError(f"Cannot read the picture {path}: {in_one_line(error)}.") from error


def run(pipe: Any, arguments: dict[str, Any], seed: int) -> Any:
    """One call of ``pipe``.

    Raises:
        PipelineError: it refused an argument or failed, and what it said; where it takes a picture that was not given,
            that too.
    """
    generator = torch.Generator().manual_seed(seed)
    accepted = inspect.signature(pipe.__call__).parameters
    pictures = [name for name in (*PICTURE_NAMES, "mask_image") if name in accepted and name not in arguments]
    try:
        return pipe(**arguments, generator=generator)
    except ForeseerError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        name, why = type(pipe).__name__, in_one_line(error)
        if pictures and not isinstance(error, RuntimeError):  # memory, sizes: a picture would not help
            raise PipelineError(
                f"{name} takes {' and '.join(pictures)}, none was given, and without it fails: {why}."
            ) from error
        raise PipelineError(f"{name} cannot draw this: {why}.") from error


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, blank ones left out.

    Raises:
        PipelineError: the file cannot be read, or holds no prompt, or too many.
    """
    try:
        text = read_text(path, MOST_PROMPT_BYTES)
    except (OSError, ValueError) as error:
        raise PipelineError(f"Cannot read the prompts in {path}: {reason(error)}.") from error
    prompts = []
    for line in _LINE.finditer(text):
        if words := line[0].strip():
            prompts.append(words)
        if len(prompts) > MOST_PROMPTS:
            raise PipelineError(f"{path} holds more than {MOST_PROMPTS} prompts.")
    if not prompts:
        raise PipelineError(f"{path} holds no prompt: write one a line.")
    return prompts
