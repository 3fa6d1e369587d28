"""Merging two kernels that were recorded with the same settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreseer.checks import check_flags
from foreseer.errors import KernelError
from foreseer.guidance import in_words, read_guidance

if TYPE_CHECKING:
    from foreseer.kernel.kernel import Kernel

_OPTIONAL_FIELDS = ("denoiser", "weights", "dtype", "options")  # missing in some older files
GUIDANCE = "guidance"
_FIELDS = ("model", "scheduler", GUIDANCE, "noise", *_OPTIONAL_FIELDS)


def merge(first: Kernel, second: Kernel, *, allow_overlap: bool, ignore_fields: Collection[str]) -> Kernel:
    """Combine the prompts of both kernels; see :meth:`foreseer.kernel.Kernel.merge`."""
    check_flags(KernelError, allow_overlap=allow_overlap)
    _check_same_settings(first, second, ignore_fields)
    if not allow_overlap and {gram.tobytes() for gram in first.grams} & {gram.tobytes() for gram in second.grams}:
        raise KernelError("These kernels cannot be merged: they share a run, which would count twice.")
    hashes = "+".join(kernel.provenance.get("prompts_hash", "") for kernel in (first, second))
    counts = [first.prompts, second.prompts]
    provenance = {
        **first.provenance,
        "prompts": str(sum(counts)),
        "prompts_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
    }
    if _guidance(first) != _guidance(second):
        provenance[GUIDANCE] = ""  # of both: compared with no run
    branches = None
    if first.branches is not None and second.branches is not None and first.branches.same_guidance(second.branches):
        branches = first.branches.merge(second.branches)
    elif first.branches is not None or second.branches is not None:
        cause = first.provenance.get("branches") or second.provenance.get("branches")
        provenance["branches"] = cause or "share their rows: guidance combines them differently from run to run"
    tensors = first.provenance.get("tensors") or second.provenance.get("tensors")
    if tensors is not None:
        provenance["tensors"] = tensors
    parts = None
    if first.parts is not None and second.parts is not None:
        parts = first.parts.merge(second.parts, counts)
    return replace(
        first,
        grams=np.concatenate([first.grams, second.grams]),
        final_squares=_concatenated(first.final_squares, second.final_squares),
        provenance=provenance,
        sensitivity=math.sqrt(
            float(np.average(np.square([first.sensitivity, second.sensitivity]), weights=np.array(counts)))
        ),
        drift=float(np.average([first.drift, second.drift], weights=np.array(counts))),
        branches=branches,
        output_squares=_concatenated(first.output_squares, second.output_squares),
        parts=parts,
    )


def _concatenated(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _guidance(kernel: Kernel) -> str | None:
    """The guidance as text; ``None`` if unknown: older files are compared by their ``options`` alone."""
    guidance = read_guidance(kernel.provenance.get(GUIDANCE))
    return None if guidance is None else in_words(guidance)


def _check_same_settings(first: Kernel, second: Kernel, ignored: Collection[str]) -> None:
    if isinstance(ignored, str) or not isinstance(ignored, Collection) or not {*ignored} <= {*_FIELDS}:
        raise KernelError(f"ignore_fields is {ignored!r}; expected a list out of {', '.join(_FIELDS)}.")
    if not first.grid.matches(second.grid):
        raise KernelError(f"These kernels cannot be merged: one has grid {first.grid!r}, the other {second.grid!r}.")
    compared: list[tuple[str, str | None, str | None]] = [("site", first.site, second.site)]
    for field in _FIELDS:
        if field == GUIDANCE:
            values = _guidance(first), _guidance(second)
        else:
            values = first.provenance.get(field), second.provenance.get(field)
        if field not in ignored and (field not in (GUIDANCE, *_OPTIONAL_FIELDS) or None not in values):
            compared.append((field, *values))
    for field, value, other in compared:
        if value != other:
            raise KernelError(f"These kernels cannot be merged: one has {field} {value!r}, the other {other!r}.")
    left, right = first.sampler, second.sampler
    if left is not None and right is not None and not np.allclose(left, right, atol=1e-4):
        raise KernelError("These kernels cannot be merged: their schedulers have different sampler matrices.")
