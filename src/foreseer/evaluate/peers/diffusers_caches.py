"""diffusers' own caches, switched on and off as its documentation says: `model.enable_cache(config)`."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from foreseer.attach.handle import Handle
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.cost import denoisers
from foreseer.evaluate.peers.base import PeerError, free_denoisers, untouched
from foreseer.evaluate.peers.probe import Probe, settle

# diffusers' defaults. (The TaylorSeer paper takes order 2 on FLUX.)
TAYLOR_ORDER, TAYLOR_FIRST_STEPS, TAYLOR_INTERVAL = 1, 3, 5
MAGCACHE_RETAINED, MAGCACHE_SKIPS = 0.2, 3
FIRST_BLOCK_THRESHOLDS = (1e-4, 4.0)
MAGCACHE_THRESHOLDS = (1e-4, 10.0)


@dataclass(frozen=True)
class DiffusersCache(Contender):
    """A cache of diffusers on every denoiser of the pipeline.

    Attach it for each run: what a cache holds outlives a run that was interrupted, or the pipelines that never reset.
    """

    configure: Callable[[Any], Any] = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Enable the cache with a configuration made anew, since enabling writes into it; disable it after."""
        with untouched(pipe), _quiet():
            modules: dict[str, Any] = {**free_denoisers(pipe)}
            for name, module in modules.items():
                if not hasattr(module, "enable_cache"):
                    raise PeerError(
                        f"{self.title}: {type(module).__name__} has no enable_cache: diffusers lists it not."
                    )
                before = _hooked(module)
                try:
                    module.enable_cache(self.configure(pipe))
                except (ValueError, KeyError, IndexError, AttributeError) as error:
                    raise PeerError(f"{self.title} does not take {type(module).__name__}: {error}") from error
                if _hooked(module) == before:
                    raise PeerError(f"{self.title} finds nothing to cache in {type(module).__name__} ({name}).")
            try:
                yield None
            finally:
                for module in modules.values():
                    if module.is_cache_enabled:
                        module.disable_cache()


def _dtype(pipe: Any) -> Any:
    denoiser: Any = denoisers(pipe)[0]
    return denoiser.dtype


def _hooked(module: Any) -> int:
    """How many hooks of diffusers are on a module and its parts."""
    return sum(len(part._diffusers_hook.hooks) for part in module.modules() if hasattr(part, "_diffusers_hook"))


@contextmanager
def _quiet() -> Iterator[None]:
    """FasterCache warns at each start that it is experimental, which a page says once."""
    import logging

    logger = logging.getLogger("diffusers.hooks.faster_cache")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# TaylorSeer


def make_taylorseer(probe: Probe, nfe: int | None, *, lite: bool) -> Contender:
    """TaylorSeer: every attention output (diffusers' default), or the last projection alone with all blocks skipped."""
    steps = probe.steps
    first, interval = (TAYLOR_FIRST_STEPS, TAYLOR_INTERVAL) if nfe is None else taylor_interval(nfe, steps)
    settings = {
        "cache_interval": interval,
        "disable_cache_before_step": first,
        "max_order": TAYLOR_ORDER,
        "use_lite_mode": lite,
    }

    def configure(pipe: Any) -> Any:
        import diffusers

        return diffusers.TaylorSeerCacheConfig(**settings, taylor_factors_dtype=_dtype(pipe))

    name = "diffusers-taylorseer" if lite else "diffusers-taylorseer-attention"
    title = "TaylorSeer (diffusers, lite)" if lite else "TaylorSeer (diffusers, attention)"
    shown = {**settings, "computed_steps": taylor_computed(first, interval, steps)}
    return DiffusersCache(name, title, steps, nfe, shown, configure=configure)


def taylor_computed(first: int, interval: int, steps: int) -> int:
    """How many of ``steps`` diffusers' TaylorSeer computes.

    These are the first ones, the one after the next, and from there one in ``interval``.

    >>> taylor_computed(3, 5, 50)
    13
    """
    return sum(step < first or (step - first - 1) % interval == 0 for step in range(steps))


def taylor_interval(nfe: int, steps: int) -> tuple[int, int]:
    """First steps and interval that compute exactly ``nfe``, the first steps as near diffusers' default as can be.

    Raises:
        PeerError: fewer than 2 (there always is one after the first).

    >>> taylor_interval(14, 50), taylor_interval(10, 50)
    ((2, 4), (3, 7))
    """
    fits = [
        (abs(first - TAYLOR_FIRST_STEPS), first, interval)
        for first in range(1, nfe + 1)
        for interval in range(1, steps + 1)
        if taylor_computed(first, interval, steps) == nfe
    ]
    if not fits:
        raise PeerError(f"TaylorSeer (diffusers) computes 2 steps or more, not {nfe} of {steps}.")
    return min(fits)[1:]


# First Block Cache


def make_first_block(probe: Probe, nfe: int | None) -> Contender:
    """First Block Cache, its threshold settled by FLOPs."""

    def at(threshold: float) -> DiffusersCache:
        def configure(pipe: Any) -> Any:
            import diffusers

            return diffusers.FirstBlockCacheConfig(threshold=threshold)

        title = "First Block Cache (diffusers)"
        settings = {"threshold": threshold}
        return DiffusersCache("diffusers-first-block", title, probe.steps, nfe, settings, configure=configure)

    return at(0.05) if nfe is None else settled(at, probe, nfe, FIRST_BLOCK_THRESHOLDS)


def settled(at: Callable[[float], Contender], probe: Probe, nfe: int, thresholds: tuple[float, float]) -> Contender:
    """The contender whose threshold lands nearest ``nfe`` evaluations by FLOPs; its settings say where."""
    threshold, _ = settle(lambda one: probe.evaluations(at(one)), nfe, *thresholds)
    return at(threshold)


# MagCache


def make_magcache(probe: Probe, nfe: int | None) -> Contender:
    """MagCache with ratios calibrated on this pipeline, its threshold settled by FLOPs."""
    steps = probe.steps
    ratios = magnitude_ratios(probe)
    retained, skips = (MAGCACHE_RETAINED, MAGCACHE_SKIPS) if nfe is None else magcache_room(nfe, steps)

    def at(threshold: float) -> DiffusersCache:
        settings = {"threshold": threshold, "max_skip_steps": skips, "retention_ratio": retained}

        def configure(pipe: Any) -> Any:
            import diffusers

            return diffusers.MagCacheConfig(**settings, num_inference_steps=steps, mag_ratios=list(ratios))

        shown = {**settings, "mag_ratios": "calibrated on one prompt"}
        return DiffusersCache("diffusers-magcache", "MagCache (diffusers)", steps, nfe, shown, configure=configure)

    return at(0.06) if nfe is None else settled(at, probe, nfe, MAGCACHE_THRESHOLDS)


def magcache_room(nfe: int, steps: int) -> tuple[float, int]:
    """Share of first steps kept and longest skip: the defaults where they can reach ``nfe``, else what leaves room.

    At most a third of the budget goes to the first steps, and skips are as short as the budget permits.

    >>> magcache_room(30, 50), magcache_room(10, 50)
    ((0.2, 3), (0.06, 5))
    """
    first = max(1, min(round(MAGCACHE_RETAINED * steps), nfe // 3))
    skips = MAGCACHE_SKIPS
    while first + (steps - first) // (skips + 1) > nfe:
        skips += 1
    return first / steps, skips


def magnitude_ratios(probe: Probe) -> tuple[float, ...]:
    """MagCache's ratios from its own calibration run, which prints them.

    Raises:
        PeerError: the run failed or printed none.
    """
    if "magcache" in probe.found:
        return probe.found["magcache"]

    def configure(pipe: Any) -> Any:
        import diffusers

        return diffusers.MagCacheConfig(calibrate=True, num_inference_steps=probe.steps)

    calibration = DiffusersCache("calibration", "MagCache's calibration", probe.steps, configure=configure)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        probe.evaluations(calibration)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    if not lines:
        raise PeerError(f"MagCache's calibration gave no ratios on {type(probe.pipe).__name__}.")
    ratios = tuple(float(value) for value in ast.literal_eval(lines[0]))
    probe.found["magcache"] = ratios
    return ratios


# Attention only: Pyramid Attention Broadcast, FasterCache


def make_attention(probe: Probe, nfe: int | None, *, faster: bool) -> Contender:
    """PAB and FasterCache compute attention at ``nfe`` steps and the rest of each block at all: few FLOPs are saved.

    Raises:
        PeerError: guidance that they would mix up, or a pipeline that does not tell its timestep.
    """
    steps, kind = probe.steps, type(probe.pipe).__name__
    first, interval = (0, 2) if nfe is None else broadcast_interval(nfe, steps)
    title = "FasterCache (diffusers)" if faster else "Pyramid Attention Broadcast (diffusers)"
    if not hasattr(type(probe.pipe), "current_timestep"):
        raise PeerError(f"{title} asks the pipeline for its current_timestep, and {kind} has none.")
    if probe.branches != 1:
        raise PeerError(f"{title} keeps one state for all calls: the branches of {kind}'s guidance would mix.")
    if faster and getattr(probe.pipe, "do_classifier_free_guidance", False):
        raise PeerError(f"{title} is set up for models without guidance only, and {kind} guides in one batch.")
    times = probe.timesteps
    published = (-1, 681) if faster else (100, 800)
    span = published if nfe is None else (-1, (times[first - 1] + times[first]) / 2 if first < steps else -1)
    settings = {"spatial_attention_block_skip_range": interval, "spatial_attention_timestep_skip_range": span}

    def configure(pipe: Any) -> Any:
        import diffusers

        given = {**settings, "current_timestep_callback": lambda: pipe.current_timestep}
        if not faster:
            return diffusers.PyramidAttentionBroadcastConfig(**given)
        return diffusers.FasterCacheConfig(
            **given, is_guidance_distilled=True, attention_weight_callback=lambda module: 0.5
        )

    name = "diffusers-fastercache" if faster else "diffusers-pab"
    return DiffusersCache(name, title, steps, nfe, {**settings, "skips": "attention only"}, configure=configure)


def broadcast_interval(nfe: int, steps: int) -> tuple[int, int]:
    """First steps and interval with which attention is computed at ``nfe`` of ``steps`` (at multiples of the interval).

    >>> broadcast_interval(14, 50), broadcast_interval(10, 50)
    ((2, 4), (1, 5))
    """
    fits = [
        (first, interval)
        for first in range(1, nfe + 1)
        for interval in range(1, steps + 1)
        if first + sum(step % interval == 0 for step in range(first, steps)) == nfe
    ]
    return min(fits)


MAKERS: dict[str, Callable[[Probe, int | None], Contender]] = {
    "diffusers-taylorseer": partial(make_taylorseer, lite=True),
    "diffusers-taylorseer-attention": partial(make_taylorseer, lite=False),
    "diffusers-first-block": make_first_block,
    "diffusers-magcache": make_magcache,
    "diffusers-pab": partial(make_attention, faster=False),
    "diffusers-fastercache": partial(make_attention, faster=True),
}
