"""Second moments of features: kernels, files, interpolation, merging, expected errors. NumPy only."""

from foreseer.errors import KernelError
from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel

__all__ = ["Branches", "Kernel", "KernelError"]
