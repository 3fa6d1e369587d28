"""Two kernels of one setting become one of both their prompts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from foreseer.kernel.kernel import Kernel, KernelError

_LATER = ("denoiser", "weights", "dtype", "options")  # older files lack some
_SETTING = ("model", "scheduler", "guidance", *_LATER)


def merge(one: Kernel, other: Kernel, *, may_share: bool, may_differ: Collection[str]) -> Kernel:
    """See :meth:`foreseer.kernel.Kernel.merge`."""
    _check_same_setting(one, other, may_differ)
    if not may_share and {gram.tobytes() for gram in one.grams} & {gram.tobytes() for gram in other.grams}:
        raise KernelError("These kernels do not add up: a run of one is in the other too, and would count twice.")
    hashes = "+".join(kernel.provenance.get("prompts_hash", "") for kernel in (one, other))
    provenance = {
        **one.provenance,
        "prompts": str(one.prompts + other.prompts),
        "prompts_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
    }
    known = one.final_squares is not None and other.final_squares is not None
    squares = np.concatenate([one.final_squares, other.final_squares]) if known else None  # pyright: ignore
    grams = np.concatenate([one.grams, other.grams])
    sizes = np.array([one.prompts, other.prompts])
    response = math.sqrt(float(np.average(np.square([one.response, other.response]), weights=sizes)))
    branches = None
    if one.branches is not None and other.branches is not None and one.branches.mix_alike(other.branches):
        branches = one.branches.merge(other.branches)
    elif one.branches is not None or other.branches is not None:
        known = one.provenance.get("branches") or other.provenance.get("branches")
        provenance["branches"] = known or "share their rows: guidance combines them differently from run to run"
    outputs = None
    if one.output_squares is not None and other.output_squares is not None:
        outputs = np.concatenate([one.output_squares, other.output_squares])
    parts = None
    if one.parts is not None and other.parts is not None:
        parts = one.parts.merge(other.parts, [one.prompts, other.prompts])
    return replace(
        one,
        grams=grams,
        final_squares=squares,
        provenance=provenance,
        response=response,
        branches=branches,
        output_squares=outputs,
        parts=parts,
    )


def _check_same_setting(one: Kernel, other: Kernel, may_differ: Collection[str]) -> None:
    if isinstance(may_differ, str) or not isinstance(may_differ, Collection) or not {*may_differ} <= {*_SETTING}:
        raise KernelError(f"may_differ is {may_differ!r}; expected a list of words out of {', '.join(_SETTING)}.")
    if not one.grid.matches(other.grid):
        raise KernelError(f"These kernels do not add up: one has grid {one.grid!r}, the other {other.grid!r}.")
    compared: list[tuple[str, str | None, str | None]] = [("site", one.site, other.site)]
    for word in _SETTING:
        mine, its = one.provenance.get(word), other.provenance.get(word)
        if word not in may_differ and (word not in _LATER or None not in (mine, its)):
            compared.append((word, mine, its))
    for word, mine, its in compared:
        if mine != its:
            raise KernelError(f"These kernels do not add up: one has {word} {mine!r}, the other {its!r}.")
    if one.sampler is not None and other.sampler is not None and not np.allclose(one.sampler, other.sampler, atol=1e-4):
        raise KernelError("These kernels do not add up: their schedulers go from outputs to samples in other ways.")
