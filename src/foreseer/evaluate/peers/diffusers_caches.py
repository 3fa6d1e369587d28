"""diffusers' own caches, enabled and disabled as documented: ``model.enable_cache(config)``."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from foreseer.attach.handle import Handle
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.entries.tune_gates import bisect
from foreseer.evaluate.peers.base import PeerError, free_denoisers, untouched
from foreseer.evaluate.peers.probe import Probe

# diffusers' defaults. (The TaylorSeer paper uses order 2 on FLUX.)
TAYLOR_ORDER, TAYLOR_FIRST_STEPS, TAYLOR_INTERVAL = 1, 3, 5
MAGCACHE_RETAINED, MAGCACHE_SKIPS = 0.2, 3
FIRST_BLOCK_THRESHOLDS = (1e-4, 4.0)
MAGCACHE_THRESHOLDS = (1e-4, 10.0)


@dataclass(frozen=True)
class DiffusersCache(Entry):
    """Entry that enables a cache of diffusers on every denoiser of the pipeline.

    Attach it for each run: a cache keeps its state after an interrupted run, and some pipelines never reset it.

    Attributes:
        configure: function from the pipeline to a new configuration of the cache.
    """

    configure: Callable[[Any], Any] = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Enable the cache with a new configuration, since enabling modifies it; disable it at the end."""
        with untouched(pipe), _quiet():
            modules: dict[str, Any] = {**free_denoisers(pipe)}
            for name, module in modules.items():
                if not hasattr(module, "enable_cache"):
                    raise PeerError(
                        f"{self.title}: {type(module).__name__} has no enable_cache: diffusers does not support it."
                    )
                hooks_before = _count_hooks(module)
                try:
                    module.enable_cache(self.configure(pipe))
                except (ValueError, KeyError, IndexError, AttributeError) as error:
                    raise PeerError(f"{self.title} does not support {type(module).__name__}: {error}") from error
                if _count_hooks(module) == hooks_before:
                    raise PeerError(f"{self.title} finds nothing to cache in {type(module).__name__} ({name}).")
            try:
                yield None
            finally:
                for module in modules.values():
                    if module.is_cache_enabled:
                        module.disable_cache()


def _dtype(pipe: Any) -> Any:
    denoiser: Any = next(iter(find_denoisers(pipe).values()))
    return denoiser.dtype


def _count_hooks(module: Any) -> int:
    """Count the hooks of diffusers on a module and its submodules."""
    return sum(len(part._diffusers_hook.hooks) for part in module.modules() if hasattr(part, "_diffusers_hook"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress FasterCache's warning at each start that it is experimental."""
    import logging

    logger = logging.getLogger("diffusers.hooks.faster_cache")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# TaylorSeer


def make_taylorseer(probe: Probe, nfe: int | None, *, lite: bool) -> Entry:
    """Make TaylorSeer on every attention output (the default) or, ``lite``, on the last projection only."""
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
    shown: dict[str, Any] = {**settings, "computed_steps": taylor_computed(first, interval, steps)}
    if not lite:
        shown["skips"] = "attention only"
    return DiffusersCache(name, title, steps, nfe, shown, configure=configure)


def taylor_computed(first: int, interval: int, steps: int) -> int:
    """Count the steps of ``steps`` that diffusers' TaylorSeer computes.

    These are the first ``first``, the step after the next one, and then every ``interval``-th.

    >>> taylor_computed(3, 5, 50)
    13
    """
    return sum(step < first or (step - first - 1) % interval == 0 for step in range(steps))


def taylor_interval(nfe: int, steps: int) -> tuple[int, int]:
    """Choose first steps, near diffusers' default, and interval that compute exactly ``nfe``.

    Raises:
        PeerError: ``nfe`` is less than 2 (a step after the first is always computed).

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
        raise PeerError(f"TaylorSeer (diffusers) computes 2 steps or more; received {nfe} of {steps}: ask for 2.")
    return min(fits)[1:]


# First Block Cache


def make_first_block(probe: Probe, nfe: int | None) -> Entry:
    """Make First Block Cache with the threshold that meets ``nfe`` by FLOPs."""

    def at(threshold: float) -> DiffusersCache:
        def configure(pipe: Any) -> Any:
            import diffusers

            return diffusers.FirstBlockCacheConfig(threshold=threshold)

        title = "First Block Cache (diffusers)"
        settings = {"threshold": threshold}
        return DiffusersCache("diffusers-first-block", title, probe.steps, nfe, settings, configure=configure)

    return at(0.05) if nfe is None else at_budget(at, probe, nfe, FIRST_BLOCK_THRESHOLDS)


def at_budget(at: Callable[[float], Entry], probe: Probe, nfe: int, thresholds: tuple[float, float]) -> Entry:
    """Choose the entry whose threshold gives the NFE by FLOPs nearest ``nfe``."""
    threshold, _ = bisect(lambda threshold: probe.nfe_by_flops(at(threshold)), nfe, *thresholds)
    return at(threshold)


# MagCache


def make_magcache(probe: Probe, nfe: int | None) -> Entry:
    """Make MagCache with ratios calibrated on this pipeline and the threshold that meets ``nfe`` by FLOPs."""
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

    return at(0.06) if nfe is None else at_budget(at, probe, nfe, MAGCACHE_THRESHOLDS)


def magcache_room(nfe: int, steps: int) -> tuple[float, int]:
    """Choose the share of first steps and the longest skip: the defaults if they can reach ``nfe``.

    Otherwise the first steps take at most a third of the budget, and skips are as short as the budget permits.

    >>> magcache_room(30, 50), magcache_room(10, 50)
    ((0.2, 3), (0.06, 5))
    """
    first = max(1, min(round(MAGCACHE_RETAINED * steps), nfe // 3))
    skips = MAGCACHE_SKIPS
    while first + (steps - first) // (skips + 1) > nfe:
        skips += 1
    return first / steps, skips


def magnitude_ratios(probe: Probe) -> tuple[float, ...]:
    """Read MagCache's ratios from its own calibration run, which prints them.

    Raises:
        PeerError: the run failed or printed no ratios.
    """
    if "magcache" in probe.calibrated:
        return probe.calibrated["magcache"]

    def configure(pipe: Any) -> Any:
        import diffusers

        return diffusers.MagCacheConfig(calibrate=True, num_inference_steps=probe.steps)

    calibration = DiffusersCache("calibration", "MagCache's calibration", probe.steps, configure=configure)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        probe.nfe_by_flops(calibration)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    if not lines:
        raise PeerError(f"MagCache's calibration gave no ratios on {type(probe.pipe).__name__}.")
    ratios = tuple(float(value) for value in ast.literal_eval(lines[0]))
    probe.calibrated["magcache"] = ratios
    return ratios


# Attention only: Pyramid Attention Broadcast, FasterCache


def make_attention(probe: Probe, nfe: int | None, *, faster: bool) -> Entry:
    """Make PAB or FasterCache, which save attention only: the rest of each block runs at every step.

    Raises:
        PeerError: guidance whose branches they would mix, or a pipeline without ``current_timestep``.
    """
    steps, kind = probe.steps, type(probe.pipe).__name__
    first, interval = (0, 2) if nfe is None else broadcast_interval(nfe, steps)
    title = "FasterCache (diffusers)" if faster else "Pyramid Attention Broadcast (diffusers)"
    if not hasattr(type(probe.pipe), "current_timestep"):
        raise PeerError(f"{title} reads the pipeline's current_timestep, and {kind} has none.")
    if probe.branches != 1:
        raise PeerError(f"{title} keeps one state for all calls: the branches of {kind}'s guidance would mix.")
    if faster and getattr(probe.pipe, "do_classifier_free_guidance", False):
        raise PeerError(f"{title} supports models without guidance only, and {kind} runs both branches in one batch.")
    times = probe.timesteps
    published = (-1, 681) if faster else (100, 800)
    span = published if nfe is None else (-1, (times[first - 1] + times[first]) / 2 if first < steps else -1)
    settings = {"spatial_attention_block_skip_range": interval, "spatial_attention_timestep_skip_range": span}

    def configure(pipe: Any) -> Any:
        import diffusers

        options = {**settings, "current_timestep_callback": lambda: pipe.current_timestep}
        if not faster:
            return diffusers.PyramidAttentionBroadcastConfig(**options)
        return diffusers.FasterCacheConfig(
            **options, is_guidance_distilled=True, attention_weight_callback=lambda module: 0.5
        )

    name = "diffusers-fastercache" if faster else "diffusers-pab"
    return DiffusersCache(name, title, steps, nfe, {**settings, "skips": "attention only"}, configure=configure)


def broadcast_interval(nfe: int, steps: int) -> tuple[int, int]:
    """Choose first steps and interval with which attention is computed at ``nfe`` of ``steps``.

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
