"""Peers: other packages' caches, better solvers and learned solvers, set up as their users get them.

    entry = find_peer("diffusers-first-block", pipe, steps=50, nfe=10)
    with entry.attached(pipe):
        pipe(...)

Settings are chosen to compute the steps asked for or, for methods with a threshold, to use the same FLOPs; the entry's
``settings`` hold them. The registry imports no tensor library: each peer's file is imported on its first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreseer.checks import unknown_name
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.peers.base import PeerError

if TYPE_CHECKING:
    from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts
    from foreseer.evaluate.peers.probe import Probe

__all__ = ["PEERS", "CalibrationPrompts", "Peer", "PeerError", "Probe", "find_peer"]
_LAZY = {"Probe": "probe", "CalibrationPrompts": "calibration_runs"}


@dataclass(frozen=True)
class Peer:
    """A method of another package or paper.

    Attributes:
        name: what users type.
        summary: its idea, in one phrase.
        source: package and paper.
        make: function from trial runs and a budget (``None``: the package's defaults) to the entry.
        learns: whether it needs calibration prompts.
    """

    name: str
    summary: str
    source: str
    make: Callable[[Any, int | None], Entry]
    learns: bool = False


def _from(module: str, function: str, **options: Any) -> Callable[[Any, int | None], Entry]:
    """Name a function ``(probe, nfe, **options)`` of a module in this folder, imported on use."""

    def make(probe: Any, nfe: int | None) -> Entry:
        return getattr(import_module(f"{__name__}.{module}"), function)(probe, nfe, **options)

    return make


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "diffusers-taylorseer",
            "Taylor forecast of the last projection's output, all blocks skipped",
            "diffusers TaylorSeerCacheConfig(use_lite_mode=True), arXiv 2503.06923",
            _from("diffusers_caches", "make_taylorseer", lite=True),
        ),
        Peer(
            "diffusers-taylorseer-attention",
            "Taylor forecast of every attention's output; the rest of each block is computed",
            "diffusers TaylorSeerCacheConfig, arXiv 2503.06923",
            _from("diffusers_caches", "make_taylorseer", lite=False),
        ),
        Peer(
            "diffusers-first-block",
            "the other blocks' residual is reused while the first block's changes little",
            "diffusers FirstBlockCacheConfig (ParaAttention)",
            _from("diffusers_caches", "make_first_block"),
        ),
        Peer(
            "diffusers-magcache",
            "the blocks' residual is reused while calibrated magnitude ratios add up to little",
            "diffusers MagCacheConfig, arXiv 2506.09045",
            _from("diffusers_caches", "make_magcache"),
        ),
        Peer(
            "diffusers-pab",
            "attention outputs are reused; the rest of each block is computed",
            "diffusers PyramidAttentionBroadcastConfig, arXiv 2408.12588",
            _from("diffusers_caches", "make_attention", faster=False),
        ),
        Peer(
            "diffusers-fastercache",
            "attention outputs are extrapolated; the rest of each block is computed",
            "diffusers FasterCacheConfig, arXiv 2410.19355",
            _from("diffusers_caches", "make_attention", faster=True),
        ),
        Peer(
            "cache-dit",
            "DBCache: like First Block Cache, after some warm-up steps",
            "cache-dit DBCacheConfig",
            _from("cache_dit_package", "make_dbcache", taylor=False),
        ),
        Peer(
            "cache-dit-taylor",
            "DBCache, its residual forecast by a Taylor expansion",
            "cache-dit DBCacheConfig with TaylorSeerCalibratorConfig",
            _from("cache_dit_package", "make_dbcache", taylor=True),
        ),
        Peer(
            "dpm-solver",
            "multistep solver of order 2 with fewer steps",
            "diffusers, arXiv 2211.01095",
            _from("solvers", "make_solver", solver="dpm-solver"),
        ),
        Peer(
            "unipc",
            "multistep predictor and corrector of order 2 with fewer steps",
            "diffusers, arXiv 2302.04867",
            _from("solvers", "make_solver", solver="unipc"),
        ),
        Peer(
            "heun",
            "two calls of the network per step, with fewer steps",
            "diffusers, arXiv 2206.00364",
            _from("solvers", "make_solver", solver="heun"),
        ),
        Peer(
            "deis",
            "exponential integrator, noise extrapolated by a polynomial in time",
            "arXiv 2204.13902, written from the paper",
            _from("tableau_peers", "make_chosen", name="deis"),
        ),
        Peer(
            "ipndm",
            "Adams-Bashforth weights for equal steps over past outputs",
            "arXiv 2204.13902 and 2202.09778, written from the papers",
            _from("tableau_peers", "make_chosen", name="ipndm"),
        ),
        Peer(
            "dpm-solver-v3",
            "exponential integrator around statistics of the model",
            "arXiv 2310.13268, written from the paper",
            _from("tableau_peers", "make_chosen", name="dpm-solver-v3"),
            learns=True,
        ),
        Peer(
            "euler-gits",
            "Euler on levels found by dynamic programming",
            "arXiv 2405.11326, written from the paper",
            _from("tableau_peers", "make_chosen", name="euler-gits"),
            learns=True,
        ),
        Peer(
            "unipc-gits",
            "UniPC on levels found by dynamic programming",
            "arXiv 2405.11326 and diffusers, written from the paper",
            _from("tableau_peers", "make_chosen", name="unipc-gits"),
            learns=True,
        ),
        Peer(
            "bns",
            "all times and weights learned by gradients through the network",
            "arXiv 2403.01329, written from the paper",
            _from("tableau_peers", "make_bns"),
            learns=True,
        ),
        Peer(
            "dyweight",
            "weights over past outputs and the network's time learned by gradients",
            "arXiv 2603.11607, written from the paper",
            _from("tableau_peers", "make_dyweight"),
            learns=True,
        ),
    )
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_peer(
    name: str,
    pipe: Any,
    steps: int,
    nfe: int | None = None,
    *,
    options: dict[str, Any] | None = None,
    probe: Probe | None = None,
) -> Entry:
    """Set the peer called ``name`` up for a pipeline and a budget.

    One trial run checks that it works; methods with a threshold take about twelve more. On a large model these take
    time: pass the same ``probe`` for several peers and budgets, and the reference is run once.

    Args:
        name: one of ``PEERS``.
        pipe: a diffusers pipeline with nothing attached.
        steps: steps of the reference.
        nfe: steps to compute; ``None`` for the package's own defaults.
        options: keyword arguments of the pipeline's call; by default those of its folder's ``sampling.json``.
        probe: trial runs shared with other peers.

    Raises:
        PeerError: unknown name, package missing, budget out of reach, or the peer does not run on this pipeline.
    """
    if name not in PEERS:
        raise PeerError(unknown_name("peer", name, PEERS))
    if nfe is not None and not 1 <= nfe <= steps:
        raise PeerError(f"{nfe} computed steps do not fit a run of {steps} steps; ask for 1 to {steps}.")
    if probe is None:
        from foreseer.evaluate.peers.probe import Probe

        probe = Probe.of(pipe, steps, options)
    entry = PEERS[name].make(probe, nfe)
    return replace(entry, settings={**entry.settings, "nfe_by_flops": round(probe.nfe_by_flops(entry), 2)})
