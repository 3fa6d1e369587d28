"""Identity of a calibration: model, weights, scheduler, options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from foreseer import __version__
from foreseer.attach.network.architecture import architecture_of
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.attach.run.network_state import NetworkState
from foreseer.attach.run.scheduler_identity import scheduler_identity

SAMPLED = 64  # elements hashed per weight


def identity_of(pipe: Any, prompts: Sequence[Any], steps: int, seed: int, options: dict[str, Any]) -> dict[str, str]:
    """Return strings that identify a calibration."""
    import diffusers

    plain = {key: value for key, value in options.items() if isinstance(value, str | int | float | bool)}
    others = {key: fingerprint(value) for key, value in options.items() if key not in plain}
    return {
        "model": f"{type(pipe).__name__} {_name_of(pipe)}".strip(),
        "denoiser": architecture_of(find_denoisers(pipe).values()),
        "dtype": ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in _dtypes(pipe)})),
        "weights": weights_of(find_denoisers(pipe).values()),
        **scheduler_identity(pipe.scheduler),
        "options": json.dumps({**plain, **others}, sort_keys=True),
        "steps": str(steps),
        "seed": str(seed),
        "prompts": str(len(prompts)),
        "prompts_hash": fingerprint("\n".join(map(text_of, prompts))),
        "versions": f"foreseer {__version__}, diffusers {diffusers.__version__}, torch {torch.__version__}",
    }


def weights_of(denoisers: Iterable[nn.Module]) -> str:
    """Return a 16-digit hash of a sample of each network's weights, including adapters.

    Weights that are not in memory (offloaded) are skipped.
    """
    digest = hashlib.sha256()
    for module in denoisers:
        for name, weight in module.named_parameters():
            flat = weight.detach().reshape(-1) if type(weight) is nn.Parameter else torch.empty(0)
            sample = flat[:: max(1, flat.numel() // SAMPLED)] if not flat.is_meta else torch.empty(0)
            digest.update(f"{name} {tuple(weight.shape)} {fingerprint(sample)} ".encode())
        digest.update(repr(NetworkState(module).adapters.plain).encode())
    return digest.hexdigest()[:16]


def text_of(prompt: Any) -> str:
    """Return a prompt itself, or the fingerprint of one that is not a string (an ``fs.Sampler``'s)."""
    return prompt if isinstance(prompt, str) else fingerprint(prompt)


def fingerprint(value: Any) -> str:
    """Return a 16-digit hash of a value.

    Tensors, arrays and pictures count by their contents, in lists and dictionaries too.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray):
        content = f"{value.dtype} {value.shape}".encode() + value.tobytes()
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):
        content = f"{value.mode} {value.size}".encode() + value.tobytes()
    elif isinstance(value, Mapping):
        content = " ".join(f"{fingerprint(key)} {fingerprint(value[key])}" for key in sorted(value, key=repr)).encode()
    elif isinstance(value, list | tuple):
        content = " ".join(map(fingerprint, value)).encode()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _dtypes(pipe: Any) -> set[torch.dtype]:
    return {weight.dtype for module in find_denoisers(pipe).values() for weight in islice(module.parameters(), 1)}


def _name_of(pipe: Any) -> str:
    """Return the hub id, or the last part of a local folder's path."""
    name = str(getattr(getattr(pipe, "config", None), "_name_or_path", "") or "")
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name
