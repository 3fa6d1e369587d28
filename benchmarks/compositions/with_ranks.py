"""Two processes that share one run: its tokens, its weights, or its branches of guidance."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from tests.support.pipelines import embeds, pooled
from torch import Tensor, distributed, nn

from benchmarks.compositions.composed import Composed, Composition

AREA = "Two processes (gloo)"
SCALE = 3.0


def context_parallel(**degrees: int) -> Callable[[Composed], None]:
    """A share of the tokens in each process."""

    def change(built: Composed) -> None:
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and a machine without a GPU has none
        built.model.set_attention_backend("native")
        built.model.enable_parallelism(config=diffusers.ContextParallelConfig(**degrees))

    return change


def tensor_parallel(built: Composed) -> None:
    """A share of every feed-forward's weights in each process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    plan = {
        name: ColwiseParallel(output_layouts=Replicate())
        for name, layer in built.model.named_modules()
        if isinstance(layer, nn.Linear) and ".ff.net." in name
    }
    parallelize_module(built.model, init_device_mesh("cpu", (distributed.get_world_size(),)), plan)


def own_tensor_parallel(built: Composed) -> None:
    """Diffusers' own tensor parallelism, which refuses processors by a list of devices."""
    from diffusers.hooks import tensor_parallel as own

    torch.accelerator.device_count = lambda: 1
    own._SUPPORTED_TP_DEVICES = (*own._SUPPORTED_TP_DEVICES, "cpu")
    built.model.enable_parallelism(config=diffusers.TensorParallelConfig(tp_degree=distributed.get_world_size()))


def fully_sharded(built: Composed) -> None:
    """Weights that are gathered block by block (FSDP 2)."""
    from torch.distributed.fsdp import fully_shard

    if built.denoiser == "transformer":
        for block in (*built.model.transformer_blocks, *built.model.single_transformer_blocks):
            fully_shard(block)
    fully_shard(built.model, reshard_after_forward=True)  # the outermost one keeps its weights otherwise


class GuidanceByRank:
    """A loop of the user's own: each process computes one branch of guidance, and receives the other.

    Without a group, one process computes both.
    """

    def __init__(self, pipe: Any, network: str, arguments: Callable[[int], dict[str, Any]]) -> None:
        self.scheduler = pipe.scheduler
        self._network, self._arguments = network, arguments
        self._execution_device = torch.device("cpu")
        self.parallel = False
        setattr(self, network, getattr(pipe, network))

    def __call__(
        self, prompt: Any = None, num_inference_steps: int = 8, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        """The final latents."""
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(1, 4, 8, 8, generator=generator) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        network = getattr(self, self._network)
        with torch.no_grad():
            for t in self.scheduler.timesteps:
                cond, uncond = self._branches(lambda branch, t=t, x=latents: network(x, **self._at(t, branch))[0])
                guided = uncond + SCALE * (cond - uncond)
                latents = self.scheduler.step(guided, t, latents, return_dict=False)[0]
        return SimpleNamespace(images=latents)

    def _at(self, t: Tensor, branch: int) -> dict[str, Any]:
        return {**self._arguments(branch), "timestep": t.expand(1), "return_dict": False}

    def _branches(self, run: Callable[[int], Tensor]) -> list[Tensor]:
        if not self.parallel:
            return [run(0), run(1)]
        own = run(distributed.get_rank()).contiguous()
        both = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(both, own)
        return both


class Guided(Composed):
    """A pipeline whose loop is the user's own."""

    def __init__(self, name: str, with_text: bool = False) -> None:
        super().__init__(name, with_text)
        prompts = [{"encoder_hidden_states": embeds(1, 6, 32, seed=7 + branch)} for branch in range(2)]
        if self.denoiser == "transformer":
            vectors = list(pooled(1).values())
            prompts = [{**each, "pooled_projections": vectors[branch]} for branch, each in enumerate(prompts)]
        self.pipe = GuidanceByRank(self.pipe, self.denoiser, prompts.__getitem__)
        kept = ("num_inference_steps", "generator", "output_type")
        self.edits.append(lambda inputs: {name: value for name, value in inputs.items() if name in kept})


def branch_per_rank(built: Composed) -> None:
    """The conditional branch in one process, the unconditional one in the other."""
    built.pipe.parallel = True


def _ranks(name: str, pipelines: tuple[str, ...], change: Callable[[Composed], None], **more: Any) -> Composition:
    return Composition(AREA, name, pipelines, change, ranks=2, **more)


COMPOSITIONS = (
    _ranks("context parallel, Ulysses", ("flux", "wan", "sdxl"), context_parallel(ulysses_degree=2)),
    _ranks("context parallel, ring", ("flux", "wan", "sdxl"), context_parallel(ring_degree=2)),
    _ranks("CFG parallel, a branch per process", ("sd3", "stable_diffusion"), branch_per_rank, built=Guided),
    _ranks("tensor parallel (parallelize_module)", ("flux", "sdxl"), tensor_parallel),
    _ranks("tensor parallel (diffusers)", ("flux", "sdxl"), own_tensor_parallel),
    _ranks("FSDP (fully_shard)", ("flux", "sdxl"), fully_sharded),
)
