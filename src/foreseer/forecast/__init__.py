"""Forecasters: from computed steps to rows of weights. One file per method; NumPy only."""

from foreseer.forecast.adams_bashforth import AdamsBashforth
from foreseer.forecast.base import Forecaster
from foreseer.forecast.chebyshev import Chebyshev
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.forecast.l2p import L2P
from foreseer.forecast.newton import Newton
from foreseer.forecast.reuse import Reuse
from foreseer.forecast.taylor import TaylorSeer

__all__ = ["L2P", "AdamsBashforth", "Chebyshev", "Forecaster", "KernelRows", "Newton", "Reuse", "TaylorSeer"]
