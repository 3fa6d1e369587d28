"""Peers as their users get them: other packages' caches and better solvers, run as any method of ours.

    contender = find_peer("diffusers-first-block", pipe, steps=50, nfe=10)
    with contender.attached(pipe):
        pipe(...)

Settings land on the asked evaluations, or, for methods with a threshold, on equal FLOPs; they are in the contender's
``settings``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from foreseer.evaluate.contender import Contender
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.cache_dit_package import make_dbcache
from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts
from foreseer.evaluate.peers.diffusers_caches import MAKERS
from foreseer.evaluate.peers.probe import Probe
from foreseer.evaluate.peers.solvers import make_solver
from foreseer.evaluate.peers.tableau_peers import make_bns, make_chosen, make_dyweight

__all__ = ["PEERS", "CalibrationPrompts", "Peer", "PeerError", "Probe", "find_peer"]


@dataclass(frozen=True)
class Peer:
    """A method of others.

    Attributes:
        name: what is typed.
        summary: one sentence: the idea.
        source: package, paper.
        make: from a probe and a budget (``None``: the package's defaults) to the contender.
        learns: whether it needs calibration prompts.
    """

    name: str
    summary: str
    source: str
    make: Callable[[Probe, int | None], Contender]
    learns: bool = False


def _solver(name: Any) -> Callable[[Probe, int | None], Contender]:
    return lambda probe, nfe: make_solver(name, probe, probe.steps if nfe is None else nfe)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "diffusers-taylorseer",
            "Taylor forecast of the last projection's output, all blocks skipped",
            "diffusers TaylorSeerCacheConfig(use_lite_mode=True), arXiv 2503.06923",
            MAKERS["diffusers-taylorseer"],
        ),
        Peer(
            "diffusers-taylorseer-attention",
            "Taylor forecast of every attention's output; the rest of each block is computed",
            "diffusers TaylorSeerCacheConfig, arXiv 2503.06923",
            MAKERS["diffusers-taylorseer-attention"],
        ),
        Peer(
            "diffusers-first-block",
            "the other blocks' residual is reused while the first block's changes little",
            "diffusers FirstBlockCacheConfig (ParaAttention)",
            MAKERS["diffusers-first-block"],
        ),
        Peer(
            "diffusers-magcache",
            "the blocks' residual is reused while calibrated magnitude ratios add up to little",
            "diffusers MagCacheConfig, arXiv 2506.09045",
            MAKERS["diffusers-magcache"],
        ),
        Peer(
            "diffusers-pab",
            "attention outputs are reused; the rest of each block is computed",
            "diffusers PyramidAttentionBroadcastConfig, arXiv 2408.12588",
            MAKERS["diffusers-pab"],
        ),
        Peer(
            "diffusers-fastercache",
            "attention outputs are extrapolated; the rest of each block is computed",
            "diffusers FasterCacheConfig, arXiv 2410.19355",
            MAKERS["diffusers-fastercache"],
        ),
        Peer(
            "cache-dit",
            "DBCache: as First Block Cache, after some warm-up steps",
            "cache-dit DBCacheConfig",
            partial(make_dbcache, taylor=False),
        ),
        Peer(
            "cache-dit-taylor",
            "the same, the residual forecast by a Taylor expansion",
            "cache-dit DBCacheConfig with TaylorSeerCalibratorConfig",
            partial(make_dbcache, taylor=True),
        ),
        Peer(
            "dpm-solver",
            "multistep solver of order 2, fewer steps",
            "diffusers, arXiv 2211.01095",
            _solver("dpm-solver"),
        ),
        Peer(
            "unipc",
            "multistep predictor and corrector of order 2, fewer steps",
            "diffusers, arXiv 2302.04867",
            _solver("unipc"),
        ),
        Peer("heun", "two evaluations a step, fewer steps", "diffusers, arXiv 2206.00364", _solver("heun")),
        Peer(
            "deis",
            "exponential integrator, noise extrapolated by a polynomial in time",
            "arXiv 2204.13902, written from the paper",
            partial(make_chosen, name="deis"),
        ),
        Peer(
            "ipndm",
            "Adams-Bashforth weights for equal steps over past outputs",
            "arXiv 2204.13902 and 2202.09778, written from the papers",
            partial(make_chosen, name="ipndm"),
        ),
        Peer(
            "dpm-solver-v3",
            "exponential integrator around statistics of the model",
            "arXiv 2310.13268, written from the paper",
            partial(make_chosen, name="dpm-solver-v3"),
            learns=True,
        ),
        Peer(
            "euler-gits",
            "Euler on levels found by dynamic programming",
            "arXiv 2405.11326, written from the paper",
            partial(make_chosen, name="euler-gits"),
            learns=True,
        ),
        Peer(
            "unipc-gits",
            "UniPC on levels found by dynamic programming",
            "arXiv 2405.11326 and diffusers, written from the paper",
            partial(make_chosen, name="unipc-gits"),
            learns=True,
        ),
        Peer(
            "bns",
            "all times and weights learned by gradients through the network",
            "arXiv 2403.01329, written from the paper",
            make_bns,
            learns=True,
        ),
        Peer(
            "dyweight",
            "weights over past outputs and the network's time learned by gradients",
            "arXiv 2603.11607, written from the paper",
            make_dyweight,
            learns=True,
        ),
    )
}


def find_peer(
    name: str,
    pipe: Any,
    steps: int,
    nfe: int | None = None,
    *,
    options: dict[str, Any] | None = None,
    probe: Probe | None = None,
) -> Contender:
    """The peer called ``name``, set up for a pipeline and a budget.

    One trial run shows that it works, and for methods with a threshold a dozen find it: these take time on a large
    model. Give the same ``probe`` for several peers and budgets, and the reference run is done once.

    Args:
        name: one of ``PEERS``.
        pipe: a diffusers pipeline, nothing attached.
        steps: of the reference.
        nfe: evaluations asked for; ``None`` for the package's own defaults.
        options: keyword arguments of the pipeline's call; by default what its folder's ``sampling.json`` says.
        probe: trial runs shared with other peers.

    Raises:
        PeerError: unknown name, package missing, budget out of reach, or the peer does not run on this pipeline.
    """
    if name not in PEERS:
        raise PeerError(f"Unknown peer {name!r}: expected one of {', '.join(PEERS)}.")
    if nfe is not None and not 1 <= nfe <= steps:
        raise PeerError(f"{nfe} evaluations do not fit a run of {steps} steps; ask for 1 to {steps}.")
    probe = probe or Probe.of(pipe, steps, options)
    contender = PEERS[name].make(probe, nfe)
    found = probe.evaluations(contender)
    return replace(contender, settings={**contender.settings, "evaluations_by_flops": round(found, 2)})
