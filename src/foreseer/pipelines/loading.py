"""Loading diffusers pipelines by name, and what can be refused before they are loaded."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer import zoo
from foreseer.checks import unknown_name
from foreseer.errors import ForeseerError, MissingPackageError, in_one_line, naming_the_extra
from foreseer.files import read_json, read_text, reason
from foreseer.methods.profile import HUB_ID

if TYPE_CHECKING:
    import torch

# Accepted names, and torch's name of each.
DTYPES = {
    **{name: name for name in ("float32", "bfloat16", "float16")},
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla")
PICTURE_DECODERS = (
    *("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLQwenImage"),
    *("AutoencoderDC", "AutoencoderTiny", "VQModel"),
)

MOST_PROMPTS, MOST_PROMPT_BYTES = 100_000, 2**24
_LINE = re.compile(r"[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


class PipelineError(ForeseerError, ValueError):
    """A pipeline cannot be loaded, or does not take an option that was given."""


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype for a name in ``DTYPES``.

    Raises:
        PipelineError: the name is unknown.
    """
    check_dtype(name)
    import torch

    return getattr(torch, DTYPES[name])


def check_dtype(name: str | None) -> None:
    """Raise PipelineError unless ``name`` is in ``DTYPES`` or ``None``."""
    if name is not None and name not in DTYPES:
        raise PipelineError(unknown_name("dtype", name, DTYPES))


def check_model(model: str) -> Path:
    """Check the name of a model and return the folder that it would be read from.

    Neither the model nor torch is loaded.

    Raises:
        PipelineError: it is neither a bundled pipeline, nor a folder with a ``model_index.json`` (of a modular
            pipeline: a ``modular_model_index.json``), nor a hub id.
    """
    folder = zoo.path(model) if model in zoo.NAMES else Path(model)
    if folder.is_dir() and not ((folder / "model_index.json").is_file() or is_modular(folder)):
        raise PipelineError(f"{folder} holds no model_index.json: it is not a diffusers pipeline's folder.")
    if folder.is_dir() or HUB_ID.fullmatch(model):
        return folder
    if folder.exists():
        raise PipelineError(f"{model!r} is a file; expected the folder of a diffusers pipeline.")
    places = ("an existing folder in diffusers' format", "a hub id (OWNER/NAME)")
    raise PipelineError(unknown_name("model", model, [*zoo.NAMES, *places]))


def is_modular(folder: Path) -> bool:
    """Whether a modular pipeline of diffusers is saved in ``folder``, and no other."""
    return (folder / "modular_model_index.json").is_file() and not (folder / "model_index.json").is_file()


def check_placement(dtype: str | None, device: str | None) -> None:
    """Raise PipelineError unless ``dtype`` and ``device`` are known names, or ``None``."""
    check_dtype(dtype)
    kind, _, index = (device or "cpu").partition(":")
    if kind not in DEVICES:
        raise PipelineError(unknown_name("device", kind, DEVICES))
    if index and not index.isdecimal():
        raise PipelineError(f"The device is {device!r}; expected a number after the colon, as in cuda:1.")


def draws_pictures(folder: Path) -> bool:
    """Whether the pipeline in ``folder`` is known to draw pictures, not videos or sound."""
    index = read_config(folder / "model_index.json")
    name, decoder = str(index.get("_class_name", "")), index.get("vae") or [None, None]
    others = "vocoder" in index or re.search("Video|Animate", name)  # spectrograms are decoded as pictures are
    return decoder[-1] in PICTURE_DECODERS and not others


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object in a pipeline's folder; empty if the file is missing or is none."""
    try:
        value = read_json(read_text(path, MOST_PROMPT_BYTES))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def load_pipeline(model: str, dtype: str | None = None, device: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Load a pipeline and the call options of its folder.

    Args:
        model: ``"emoji"``, a folder with a ``model_index.json``, or a hub id.
        dtype: a name in ``DTYPES``; by default bfloat16 on a GPU and float32 elsewhere.
        device: by default the GPU if there is one.

    Raises:
        PipelineError: it cannot be found or loaded, or the dtype is unknown.
    """
    check_placement(dtype, device)
    folder = check_model(model)
    with naming_the_extra():
        import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device_works(device)
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    try:
        pipe = _from_pretrained(str(folder) if folder.is_dir() else model, torch_dtype(dtype))
    except MissingPackageError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = in_one_line(error)
        raise PipelineError(
            f"Cannot load {model!r} ({reason}). Give a bundled pipeline ({', '.join(zoo.NAMES)}), a folder in "
            "diffusers' format, or a hub id that this machine can reach."
        ) from error
    try:
        pipe = pipe.to(device)
    except RuntimeError as error:
        raise PipelineError(f"Cannot move {model!r} to {device!r}: {in_one_line(error)}.") from error
    return pipe, sampling_of(model)


def _check_device_works(device: str) -> None:
    """Raise PipelineError unless torch can put a tensor on ``device``; asked before a model is read."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise PipelineError(f"The device {device!r} cannot be used here: {reason}.") from error


def sampling_of(model: str) -> dict[str, Any]:
    """Return the call options in a pipeline's folder; empty for a hub id.

    The pipeline is not loaded.
    """
    folder = zoo.path(model) if model in zoo.NAMES else Path(model)
    return zoo.sampling(folder) if folder.is_dir() else {}


def quiet_libraries() -> None:
    """Silence progress bars, warnings, and the log of errors that are raised as well."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("diffusers.modular_pipelines").setLevel(logging.CRITICAL)


def _from_pretrained(model: str, dtype: torch.dtype) -> Any:
    with naming_the_extra():
        import diffusers

    quiet_libraries()
    options: dict[str, Any] = {"dtype" if version_of(diffusers.__version__) >= (0, 42) else "torch_dtype": dtype}
    if not is_modular(Path(model)):
        try:
            return diffusers.DiffusionPipeline.from_pretrained(model, **options)
        except OSError:
            if Path(model).is_dir():
                raise
    pipe = diffusers.ModularPipeline.from_pretrained(model)
    pipe.load_components(**options)
    return pipe


def version_of(words: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparison.

    >>> version_of("0.42.1.dev0") >= (0, 42)
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", words)[:3])


def split_sampling(sampling: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Split a pipeline's ``sampling.json`` into its example prompts and its call options."""
    return list(sampling.get("prompts", [])), {key: value for key, value in sampling.items() if key != "prompts"}


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
        raise PipelineError(f"{path} holds no prompt: write one per line.")
    return prompts
