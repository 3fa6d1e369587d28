"""Second moments of features, and what follows from them. NumPy only, never torch."""

from foreseer.kernel.kernel import Kernel, KernelError

__all__ = ["Kernel", "KernelError"]
