"""Why a pipeline was not tried, read off its class; and where its network was."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import diffusers

BASES = {"DiffusionPipeline", "ModularPipeline"}
NETWORKS = ("transformer", "unet", "prior", "decoder")
LENT = "modular, with another fixture's components"
NO_COMPONENTS = "modular: upstream keeps its components on the Hub, and no other fixture has its network"
NO_LENDER = "no other fixture has its"
# What errors of fixtures that cannot be built say, and their cause.
CAUSES = {
    LENT: "modular: upstream keeps its components on the Hub, and those of other fixtures do not fit",
    NO_COMPONENTS: NO_COMPONENTS,
    "'transforms' is not defined": "needs torchvision",
    "OmniGenMultiModalProcessor": "needs torchvision",
    "OpenCV": "needs OpenCV",
    "'original_rope'": "its text encoder, which diffusers brings along, does not run with transformers 5",
    "invert an input image first": "edits what a call of `invert` has left, and is not repeatable without it",
    "'guidance_embeds'": "the pipeline fails by itself: it reads a setting that its network lacks",
    "couldn't connect": "upstream keeps a part of this fixture on the Hub",
    "does not appear to have a file": "upstream keeps a part of this fixture on the Hub",
    "keeps on the Hub": "upstream keeps a part of this fixture on the Hub",
    "Can't load image processor": "upstream keeps a part of this fixture on the Hub",
    "reshape tensor of 0 elements": "needs the Hub's tokenizer",
    "min_pixels": "upstream keeps a part of this fixture on the Hub",
    "doesn't match model": "upstream keeps a part of this fixture on the Hub",
    "size of tensor a (12544)": "upstream keeps a part of this fixture on the Hub",
    "normalized_shape=[32]": "upstream keeps a part of this fixture on the Hub",
    "'text_model'": "the pipeline does not run with transformers 5",
    "invert_attention_mask": "a part that diffusers brings along does not run with transformers 5",
    "Use `invert()`": "edits what a call of `invert` has left, and is not repeatable without it",
    "text_embeds": "needs a text encoder that no other fixture has",
    "get_text_features": "needs a text encoder that no other fixture has",
    "'CLIPConfig' object": "needs an image encoder that no other fixture has",
    "_get_variance() missing": "needs a scheduler of several steps at once",
    "Invalid mode": "draws pictures with depth, which its decoder of another fixture does not",
    "cannot be undefined": "needs embeddings that are made by another program",
    "too many values to unpack": "needs a decoder of videos of one frame that no other fixture has",
    "temporal_compression_ratio": "needs a decoder of videos that no other fixture has",
    "Given groups=1": "its network takes other channels than those of other fixtures",
    "cannot be multiplied": "its network takes other channels than those of other fixtures",
    "output (H: 0, W: 0)": "its pyramid of sizes is too deep for a tiny picture",
    "Input type (c10::BFloat16)": "reads pictures in bfloat16 alone",
    "is not compatible with": "needs a control network of another version",
    "`text_target`": "needs the Hub's tokenizer",
}


def cause_of(reason: str) -> str:
    """The cause behind an error of a fixture, or the error itself."""
    return next((cause for part, cause in CAUSES.items() if part in reason), re.sub(r"^(\w+Error: )+", "", reason))


def why_no_fixture(name: str) -> str:
    """The cause that a pipeline's class itself gives for having no fixture upstream."""
    kind = _class(name)
    if name in BASES:
        return "a base class"
    if kind is None or (hasattr(kind, "_backends") and ".utils.dummy" in kind.__module__):
        return f"needs packages that are not installed: {', '.join(getattr(kind, '_backends', []))}"
    if ".deprecated." in kind.__module__:
        return "deprecated: diffusers keeps the class and no test of it"
    if issubclass(kind, diffusers.ModularPipeline):
        return "modular: no fixture upstream"
    if not has_loop(name):
        return "no sampling loop: no scheduler, steps or callback"
    return "no fixture upstream"


def has_loop(name: str) -> bool:
    """Whether the signature of a pipeline's class has steps; modular pipelines have none."""
    kind = _class(name)
    absent = kind is None or name in BASES or (hasattr(kind, "_backends") and ".utils.dummy" in kind.__module__)
    if absent or issubclass(kind, diffusers.ModularPipeline):
        return False
    taken = inspect.signature(kind.__call__).parameters
    steps = any("num_inference_steps" in name or name == "callback_on_step_end" for name in taken)
    return steps or "scheduler" in inspect.signature(kind.__init__).parameters


def network_of(name: str) -> str | None:
    """The class of the network that a pipeline calls at each step, as its signature or blocks give it."""
    kind = _class(name)
    if kind is None or name in BASES:
        return None
    hints = _modular_hints(kind) if issubclass(kind, diffusers.ModularPipeline) else _hints(kind)
    hint = next((hints[network] for network in NETWORKS if network in hints), None)
    return None if hint is None else getattr(hint, "__name__", str(hint)).split("|")[0].strip().rpartition(".")[2]


def stand_ins(missing: Iterable[str], tried: Iterable[str]) -> dict[str, tuple[str, str]]:
    """For pipelines that were not tried: their network, and the first pipeline with it that was."""
    networks: dict[str, str] = {}
    for name in sorted(tried):
        network = network_of(name)
        if network is not None:
            networks.setdefault(network, name)
    pairs = ((name, network_of(name)) for name in missing)
    return {name: (network, networks[network]) for name, network in pairs if network in networks}


def _class(name: str) -> Any:
    try:
        kind = getattr(diffusers, name)
    except (AttributeError, ImportError, RuntimeError):
        return None
    return kind if inspect.isclass(kind) else None


def _hints(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters
    return {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}


def _modular_hints(kind: Any) -> dict[str, Any]:
    try:
        return {spec.name: spec.type_hint for spec in kind().blocks.expected_components if spec.type_hint}
    except Exception:  # noqa: BLE001 - blocks that cannot be made without their repository
        return {}
