"""Second moments of features: kernels, files, interpolation, merging, expected errors. NumPy only."""

from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel, KernelError

__all__ = ["Branches", "Kernel", "KernelError"]
