"""Kernels as files."""

from __future__ import annotations

import json
import os

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files import Artifact, read_names, read_words, reason
from foreseer.grid import Grid
from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel
from foreseer.kernel.parts import Parts


class KernelFileError(ForeseerError, ValueError):
    """A file is damaged, holds no kernel, or was written by a later version."""


SHAPES = {
    "noise_levels": "T",
    "grams": "P T T",
    "sampler": "T+1 T+1",
    "final_squares": "P",
    "mixing": "B",
    "branch_grams": "P B*T B*T",
    "output_squares": "P T",
    "part_grams": "M T T",
}
KERNEL_FILE = Artifact(
    "kernel",
    version=1,
    arrays={name: (np.float64, shape) for name, shape in SHAPES.items()},
    optional=("sampler", "final_squares", "mixing", "branch_grams", "output_squares", "part_grams"),
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
    if kernel.parts is not None:
        arrays["part_grams"] = kernel.parts.grams
        metadata["parts"] = json.dumps(kernel.parts.names)
    KERNEL_FILE.save(path, arrays, metadata)


def load_kernel(path: str | os.PathLike[str]) -> Kernel:
    """Read a kernel and check it."""
    arrays, metadata = KERNEL_FILE.load(path)
    try:
        grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))  # pyright: ignore[reportArgumentType]
        known = [
            part
            for part, there in (("branches", metadata), ("mixing", arrays), ("branch_grams", arrays))
            if part in there
        ]
        if len(known) not in (0, 3):
            raise ValueError(f"of its branches it holds the {' and the '.join(known)} only")
        if ("parts" in metadata) != ("part_grams" in arrays):
            raise ValueError("of its parts it holds the names or the moments only")
        branches = parts = None
        if "parts" in metadata:
            parts = Parts(tuple(read_names(metadata["parts"])), arrays["part_grams"])
        if known:
            branches = Branches(tuple(read_names(metadata["branches"])), arrays["mixing"], arrays["branch_grams"])
        return Kernel(
            grid,
            arrays["grams"],
            arrays.get("sampler"),
            arrays.get("final_squares"),
            metadata["site"],
            read_words(metadata["provenance"]),
            float(metadata["response"]),
            branches=branches,
            output_squares=arrays.get("output_squares"),
            parts=parts,
        )
    except (ForeseerError, ValueError) as error:
        raise KernelFileError(f"{os.fspath(path)} does not hold a valid kernel: {reason(error)}.") from error
