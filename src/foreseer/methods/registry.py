"""The methods by name: each at its published setting, and its family of schedules for any budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreseer.errors import PlanError
from foreseer.forecast import AdamsBashforth, Chebyshev, Newton, Reuse, TaylorSeer
from foreseer.methods.generic import GenericRows, GenericSteps
from foreseer.methods.method import Method
from foreseer.schedule import Explicit, Growing, Schedule, Uniform
from foreseer.site import Residual, Tokens

if TYPE_CHECKING:
    from foreseer.gate import Gate

# L2P's computed steps of 50, by the N of its tables (adjusted by hand from prediction residuals).
L2P_STEPS: dict[int, tuple[int, ...]] = {
    5: (0, 1, 2, 4, 6, 9, 14, 23, 30, 37, 44),
    6: (0, 1, 2, 4, 7, 14, 23, 31, 38, 45),
    7: (0, 1, 2, 4, 9, 17, 26, 35, 43),
    8: (0, 1, 2, 4, 10, 20, 31, 41),
    10: (0, 1, 2, 4, 12, 24, 38),
    16: (0, 1, 2, 4, 16, 32),
}

# The share that the reported speedups imply: 1.6 at every other step, 1.95 at every third.
DELTA_DIT = Residual(blocks=(0.25, 1.0), late=(0.0, 0.75), boundary=0.5)


def _step_control() -> Gate:
    from foreseer.gate import StepControl

    return StepControl(tolerance=0.01, order=2)


def _teacache() -> Gate:
    from foreseer.gate import TeaCache

    return TeaCache(threshold=0.25)


def _first_block() -> Gate:
    from foreseer.gate import FirstBlock

    return FirstBlock(threshold=0.08)


def _l2p_steps(nfe: int, steps: int) -> Schedule:
    for chosen in L2P_STEPS.values():
        if len(chosen) == nfe and steps == 50:
            return Explicit(chosen, of=50)
    offered = sorted(len(chosen) for chosen in L2P_STEPS.values())
    raise PlanError(f"L2P publishes steps for {offered} computed steps of 50, not for {nfe} of {steps}.")


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "reuse",
            "Reuse",
            "the last computed feature, unchanged",
            "FORA, arXiv 2407.01425 (N = 4)",
            Uniform(interval=4),
            Reuse(),
        ),
        Method(
            "fora",
            "FORA",
            "the last computed output of every attention and MLP module, unchanged",
            "arXiv 2407.01425 (N = 4)",
            Uniform(interval=4),
            Reuse(),
            "modules",
        ),
        Method(
            "taylorseer",
            "TaylorSeer",
            "Taylor polynomial from recursive differences",
            "arXiv 2503.06923 (FLUX: N = 6, order 2, 3 first steps)",
            Uniform(interval=6, warmup=3),
            TaylorSeer(order=2, first_enhance=3),
            "last_block",
        ),
        Method(
            "taylorseer-modules",
            "TaylorSeer at modules",
            "the same polynomial for the output of every attention and MLP module",
            "arXiv 2503.06923, its original form (the other is its lite form)",
            Uniform(interval=6, warmup=3),
            TaylorSeer(order=2, first_enhance=3),
            "modules",
        ),
        Method(
            "toca",
            "ToCa",
            "as FORA, but a tenth of the tokens goes through the MLPs at skipped steps",
            "arXiv 2410.05317 (N = 4, 3 first steps, R = 90 %)",
            Uniform(interval=4, warmup=3),
            Reuse(),
            str(Tokens()),
        ),
        Method(
            "duca",
            "DuCa",
            "ToCa's skipped steps by turns with plain reuse",
            "arXiv 2412.18911 (N = 5, 3 first steps, R = 90 %)",
            Uniform(interval=5, warmup=3),
            Reuse(),
            str(Tokens(alternate=True)),
        ),
        Method(
            "newton",
            "Newton",
            "polynomial through the last three computed features",
            "divided differences in steps, order 2",
            Uniform(interval=6, warmup=3),
            Newton(order=2),
        ),
        Method(
            "adams-bashforth",
            "Adams-Bashforth",
            "mean over the step of the line through the last two computed features",
            "Hairer, Norsett and Wanner, III.5 (order 2)",
            Uniform(interval=5, warmup=2),
            AdamsBashforth(order=2),
        ),
        Method(
            "spectrum",
            "Spectrum",
            "ridge regression on Chebyshev polynomials of the step",
            "arXiv 2603.01623 (M = 4, lambda = 0.1, N = 2, alpha = 0.75)",
            Growing(interval=2, warmup=5, alpha=0.75),
            Chebyshev(degree=4, ridge=0.1),
            "last_block",
            Growing.for_nfe,
        ),
        Method(
            "l2p",
            "L2P",
            "learned lower-triangular predictor, from its weight file",
            "arXiv 2604.26365 (N = 7, 50 steps)",
            Explicit(L2P_STEPS[7], of=50),
            None,
            budget=_l2p_steps,
        ),
        Method(
            "generic",
            "Generic steps",
            "TaylorSeer's polynomial of order 1 on steps searched on the kernels of other flow-matching models",
            "docs/methods/generic.md (order 2 on even steps under other schedulers)",
            GenericSteps(20),
            GenericRows(),
            budget=lambda nfe, steps: GenericSteps(nfe),
        ),
        Method(
            "delta-dit",
            "Delta-DiT",
            "the last change of three quarters of the blocks, rear ones early, front ones late",
            "arXiv 2406.01125 (N = 3 as in TaylorSeer's tables on FLUX)",
            Uniform(interval=3),
            Reuse(),
            str(DELTA_DIT),
        ),
        Method(
            "forecast-error",
            "Forecast error",
            "TaylorSeer's polynomial; the next gap follows from how far the last forecast missed",
            "step-size control (Hairer, Norsett and Wanner, II.4), tolerance 0.01; NFE is the most",
            None,
            TaylorSeer(order=2),
            gate=_step_control,
        ),
        Method(
            "teacache",
            "TeaCache",
            "the blocks' last change while the modulated input of the first one, rescaled, has moved little in sum",
            "arXiv 2411.19108 (threshold 0.25; its polynomial is fitted to each model); NFE is the most",
            None,
            Reuse(),
            "residual",
            gate=_teacache,
            decided_by="each",
        ),
        Method(
            "first-block",
            "First block",
            "the other blocks' last change while that of the first has moved little",
            "ParaAttention's first-block cache (threshold 0.08); NFE is the most",
            None,
            Reuse(),
            "residual(kept=1)",
            gate=_first_block,
            decided_by="each",
        ),
        Method("steps", "Step reduction", "the same sampler with fewer steps", "every scheduler"),
    )
}
