"""Kernels as files."""

from __future__ import annotations

import json
import os

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files import Artifact
from foreseer.grid import Grid
from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel


class KernelFileError(ForeseerError, ValueError):
    """A file is damaged, holds no kernel, or was written by a later version."""


OPTIONAL = ("sampler", "final_squares", "mixing", "branch_grams", "output_squares")
KERNEL_FILE = Artifact(
    "kernel",
    version=1,
    arrays=dict.fromkeys(("noise_levels", "grams", *OPTIONAL), np.float64),
    optional=OPTIONAL,
    metadata=("unit", "final_level", "site", "provenance", "response"),
    error=KernelFileError,
    most_bytes=2**30,
)


def save_kernel(kernel: Kernel, path: str | os.PathLike[str]) -> None:
    """Write ``kernel``."""
    arrays = {"noise_levels": kernel.grid.levels, "grams": kernel.grams}
    if kernel.sampler is not None:
        arrays["sampler"] = kernel.sampler
    if kernel.final_squares is not None:
        arrays["final_squares"] = kernel.final_squares
    if kernel.output_squares is not None:
        arrays["output_squares"] = kernel.output_squares
    metadata = {
        "unit": kernel.grid.unit,
        "final_level": repr(kernel.grid.final_level),
        "site": kernel.site,
        "response": repr(kernel.response),
        "provenance": json.dumps(dict(kernel.provenance), sort_keys=True),
    }
    if kernel.branches is not None:
        arrays |= {"mixing": kernel.branches.mixing, "branch_grams": kernel.branches.grams}
        metadata["branches"] = json.dumps(kernel.branches.names)
    KERNEL_FILE.save(path, arrays, metadata)


def load_kernel(path: str | os.PathLike[str]) -> Kernel:
    """Read a kernel and check it."""
    arrays, metadata = KERNEL_FILE.load(path)
    try:
        grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))  # pyright: ignore[reportArgumentType]
        provenance = json.loads(metadata["provenance"])
        optional = arrays.get("sampler"), arrays.get("final_squares")
        response = float(metadata["response"])
        branches = None
        if "branches" in metadata or "mixing" in arrays or "branch_grams" in arrays:
            names = tuple(json.loads(metadata["branches"]))
            branches = Branches(names, arrays["mixing"], arrays["branch_grams"])
        site = metadata["site"]
        outputs = arrays.get("output_squares")
        return Kernel(
            grid, arrays["grams"], *optional, site, provenance, response, branches=branches, output_squares=outputs
        )
    except (ForeseerError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise KernelFileError(f"{os.fspath(path)} does not hold a valid kernel: {error}") from error
