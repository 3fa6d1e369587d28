"""`torch.compile` by inductor, in the forms that pipelines are compiled in."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compositions.composed import Composed, Composition, Graphs, NotHereError

AREA = "torch.compile"
DIT_AND_UNET = ("flux", "stable_diffusion")


def _graphs(built: Composed, in_place: bool = False) -> Graphs:
    """The backend; one thread compiles, with no pool of processes."""
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()  # the pipelines of one cell share their code, whose compilations are limited in number
    built.graphs = Graphs(built.denoiser, in_place)
    return built.graphs


def wrapped(built: Composed) -> None:
    """The network in a wrapper, with default options."""
    setattr(built.pipe, built.denoiser, torch.compile(built.model, backend=_graphs(built)))


def in_place(built: Composed) -> None:
    """The network in place, as one graph."""
    built.model.compile(backend=_graphs(built, in_place=True), fullgraph=True)


def forward(built: Composed) -> None:
    """The network's ``forward``, as one graph."""
    built.model.forward = torch.compile(built.model.forward, backend=_graphs(built), fullgraph=True)


def blocks(built: Composed) -> None:
    """Every repeated block as one graph; a U-Net's outermost blocks, as diffusers names none of them."""
    options: dict[str, Any] = {"backend": _graphs(built), "fullgraph": True}
    if built.denoiser == "transformer":
        built.model.compile_repeated_blocks(**options)
        return
    for block in (*built.model.down_blocks, built.model.mid_block, *built.model.up_blocks):
        block.compile(**options)


def dynamic(built: Composed) -> None:
    """Sizes as symbols: the size changes from seed to seed."""
    setattr(built.pipe, built.denoiser, torch.compile(built.model, backend=_graphs(built), dynamic=True))
    of_seed = built.inputs

    def inputs(seed: int) -> dict[str, Any]:
        given = of_seed(seed)
        return {**given, "height": given["height"] + 16 * seed}

    built.inputs = inputs


def cuda_graphs(built: Composed) -> None:
    """Outputs whose memory the next call reuses."""
    if not torch.cuda.is_available():
        raise NotHereError("CUDA graphs need a GPU; memory that is reused is tested by stand-ins")
    setattr(built.pipe, built.denoiser, torch.compile(built.model, mode="reduce-overhead"))


COMPOSITIONS = (
    Composition(AREA, "default, the network wrapped", DIT_AND_UNET, wrapped),
    Composition(AREA, "fullgraph, in place", DIT_AND_UNET, in_place, late=True),
    Composition(AREA, "fullgraph, `forward`", DIT_AND_UNET, forward, late=True),
    Composition(AREA, "fullgraph, blocks", DIT_AND_UNET, blocks, late=True),
    Composition(AREA, "dynamic, two sizes", DIT_AND_UNET, dynamic),
    Composition(AREA, "CUDA graphs (reduce-overhead)", DIT_AND_UNET, cuda_graphs),
)
