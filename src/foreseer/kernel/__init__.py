"""Second moments of features, and what follows from them. NumPy only, never torch."""

from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel, KernelError

__all__ = ["Branches", "Kernel", "KernelError"]
