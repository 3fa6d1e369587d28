"""Forecasters: from computed steps to rows. One file per method, and one line here; NumPy only."""

from foreseer.forecast.adams_bashforth import AdamsBashforth as AdamsBashforth
from foreseer.forecast.base import Forecaster as Forecaster
from foreseer.forecast.chebyshev import Chebyshev as Chebyshev
from foreseer.forecast.hermite import ScaledHermite as ScaledHermite
from foreseer.forecast.kernel_rows import KernelRows as KernelRows
from foreseer.forecast.l2p import L2P as L2P
from foreseer.forecast.newton import Newton as Newton
from foreseer.forecast.reuse import Reuse as Reuse
from foreseer.forecast.taylor import TaylorSeer as TaylorSeer
