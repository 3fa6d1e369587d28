"""Kernel files: format, saving and loading."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files import Artifact, read_names, read_strings, reason
from foreseer.grid import Grid
from foreseer.kernel.branches import Branches
from foreseer.kernel.parts import Parts

if TYPE_CHECKING:
    from foreseer.kernel.kernel import Kernel


class KernelFileError(ForeseerError, ValueError):
    """A kernel file is damaged, of another kind, or written by a later version."""


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
    """Write a kernel file."""
    arrays, metadata = _content(kernel)
    KERNEL_FILE.save(path, arrays, metadata)


def encode_kernel(kernel: Kernel) -> bytes:
    """Return the bytes of a kernel file; equal kernels give equal bytes."""
    arrays, metadata = _content(kernel)
    return KERNEL_FILE.encode(arrays, metadata, "the kernel")


def _content(kernel: Kernel) -> tuple[dict[str, np.ndarray], dict[str, str]]:
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
        "response": repr(kernel.sensitivity),  # the sensitivity's name in format 1
        "drift": repr(kernel.drift),
        "provenance": json.dumps(dict(kernel.provenance), sort_keys=True),
    }
    if kernel.branches is not None:
        arrays |= {"mixing": kernel.branches.mixing, "branch_grams": kernel.branches.grams}
        metadata["branches"] = json.dumps(kernel.branches.names)
    if kernel.parts is not None:
        arrays["part_grams"] = kernel.parts.grams
        metadata["parts"] = json.dumps(kernel.parts.names)
    return arrays, metadata


def load_kernel(path: str | os.PathLike[str], kind: type[Kernel]) -> Kernel:
    """Read and validate a kernel file; ``kind`` is the class to make."""
    arrays, metadata = KERNEL_FILE.load(path)
    return _kernel_of(arrays, metadata, os.fspath(path), kind)


def decode_kernel(content: bytes, kind: type[Kernel], name: str = "the kernel") -> Kernel:
    """Read and validate the bytes of a kernel file; messages call it ``name``."""
    arrays, metadata = KERNEL_FILE.decode(content, name)
    return _kernel_of(arrays, metadata, name, kind)


def _kernel_of(arrays: dict[str, np.ndarray], metadata: dict[str, str], name: str, kind: type[Kernel]) -> Kernel:
    try:
        grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))  # pyright: ignore[reportArgumentType]
        entries = (("branches", metadata), ("mixing", arrays), ("branch_grams", arrays))
        present = [name for name, container in entries if name in container]
        if len(present) not in (0, 3):
            raise ValueError(f"of branches, mixing and branch_grams it holds only {' and '.join(present)}")
        if ("parts" in metadata) != ("part_grams" in arrays):
            raise ValueError("it holds only the names or only the moments of its parts")
        branches = parts = None
        if "parts" in metadata:
            parts = Parts(tuple(read_names(metadata["parts"])), arrays["part_grams"])
        if present:
            branches = Branches(tuple(read_names(metadata["branches"])), arrays["mixing"], arrays["branch_grams"])
        return kind(
            grid,
            arrays["grams"],
            arrays.get("sampler"),
            arrays.get("final_squares"),
            metadata["site"],
            read_strings(metadata["provenance"]),
            float(metadata["response"]),
            branches=branches,
            output_squares=arrays.get("output_squares"),
            parts=parts,
            drift=float(metadata.get("drift", kind.drift)),
        )
    except (ForeseerError, ValueError) as error:
        raise KernelFileError(f"{name} does not hold a valid kernel: {reason(error)}.") from error
