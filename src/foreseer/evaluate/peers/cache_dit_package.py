"""cache-dit's DBCache, with and without its Taylor calibrator, by its released interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from foreseer.attach.handle import Handle
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.entries.tune_gates import bisect
from foreseer.evaluate.peers.base import PeerError, free_denoisers, untouched
from foreseer.evaluate.peers.probe import Probe

THRESHOLDS = (1e-4, 4.0)
# cache-dit's defaults; its warm-up would use up a small budget, see ``warmup_steps``.
WARMUP_STEPS, DEFAULT_THRESHOLD = 8, 0.08


@dataclass(frozen=True)
class DBCache(Entry):
    """Entry that enables DBCache on a pipeline and restores the pipeline's class, which cache-dit patches.

    Attributes:
        threshold: residual difference below which blocks are skipped.
        warmup_steps: first steps that are computed in full.
        separate_guidance: whether the branches of guidance are called separately; ``None`` to let cache-dit decide.
        taylor: whether the residual is forecast by a Taylor expansion.
    """

    threshold: float = field(kw_only=True)
    warmup_steps: int = field(kw_only=True)
    separate_guidance: bool | None = field(kw_only=True)
    taylor: bool = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Enable the cache; disable it at the end."""
        package = load_package()
        free_denoisers(pipe)
        config = package.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=self.warmup_steps,
            residual_diff_threshold=self.threshold,
            enable_separate_cfg=self.separate_guidance,
        )
        calibrator = package.TaylorSeerCalibratorConfig(taylorseer_order=1) if self.taylor else None
        with untouched(pipe), _quiet():
            try:
                package.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)
            except (ValueError, AssertionError, AttributeError, TypeError) as error:
                raise PeerError(f"{self.title} does not take {type(pipe).__name__}: {error}") from error
            try:
                yield None
            finally:
                package.disable_cache(pipe)


def make_dbcache(probe: Probe, nfe: int | None, *, taylor: bool) -> Entry:
    """Make DBCache with one block at every step and the threshold that meets ``nfe`` by FLOPs.

    The warm-up takes at most a third of the steps that the budget can compute in full. The two branches of guidance are
    separated if the pipeline calls its denoiser twice per step.
    """
    load_package()
    steps, separate = probe.steps, True if probe.branches == 2 else None

    def at(threshold: float, warmup: int) -> DBCache:
        settings = {"Fn": 1, "Bn": 0, "max_warmup_steps": warmup, "residual_diff_threshold": threshold}
        if taylor:
            settings["taylorseer_order"] = 1
        return DBCache(
            "cache-dit-taylor" if taylor else "cache-dit",
            "DBCache + TaylorSeer (cache-dit)" if taylor else "DBCache (cache-dit)",
            steps,
            nfe,
            settings,
            threshold=threshold,
            warmup_steps=warmup,
            separate_guidance=separate,
            taylor=taylor,
        )

    if nfe is None:
        return at(DEFAULT_THRESHOLD, WARMUP_STEPS)
    least = probe.nfe_by_flops(at(THRESHOLDS[1], 1))  # one step in full, the first block alone at the others
    warmup = warmup_steps(nfe, steps, (least - 1) / max(1, steps - 1))
    return at(bisect(lambda threshold: probe.nfe_by_flops(at(threshold, warmup)), nfe, *THRESHOLDS)[0], warmup)


def warmup_steps(nfe: int, steps: int, skipped: float) -> int:
    """Return a third of the steps that a budget computes in full; a skipped step costs ``skipped`` of one.

    >>> warmup_steps(10, 50, 0.0), warmup_steps(10, 50, 0.15), warmup_steps(40, 50, 0.15)
    (3, 1, 8)
    """
    full = (nfe - steps * skipped) / (1 - skipped)
    return max(1, min(WARMUP_STEPS, int(full / 3)))


def load_package() -> ModuleType:
    """Import the package ``cache_dit`` without its log output.

    Raises:
        PeerError: it is not installed, or cannot be imported with the installed torch and diffusers.
    """
    try:
        with _quiet():
            import cache_dit
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "cache_dit":
            raise PeerError(f"cache-dit cannot be imported: {error}. Try pip install 'foreseer[peers]'.") from error
        raise PeerError("cache-dit is not installed: pip install 'foreseer[peers]'.") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise PeerError(
            f"cache-dit cannot be imported with the installed torch and diffusers: {error}. Install another version."
        ) from error
    return cache_dit


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the page of settings that cache-dit logs at each start."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
