"""Changes to a model around attaching: adapters, offload, quantised weights, compilation."""

from __future__ import annotations

import copy
import warnings
import weakref
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU = torch.device("cpu")
RANK = 4
SISTERS = {
    "image": diffusers.FluxImg2ImgPipeline,
    "inpaint": diffusers.FluxInpaintPipeline,
    "controlnet": diffusers.FluxControlNetPipeline,
}


def adapter(model: nn.Module) -> dict[str, Tensor]:
    """A LoRA of rank 4 on attention and MLPs, as a pipeline's loader takes it."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and ("attn." in name or "ff." in name):
            down = torch.randn(RANK, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, RANK, generator=generator)
            weights[f"transformer.{name}.lora_A.weight"] = down * layer.in_features**-0.5
            weights[f"transformer.{name}.lora_B.weight"] = 0.05 * up
    return weights


def control_network(model: Any) -> Any:
    """A ControlNet of one block of each kind, for that model, with small random weights."""
    made: Any = diffusers.FluxControlNetModel.from_config({**model.config, "num_layers": 1, "num_single_layers": 1})
    for layer in (*made.controlnet_blocks, *made.controlnet_single_blocks):
        nn.init.normal_(layer.weight, std=0.01)
    return made


def compile_blocks(model: Any) -> None:
    """Each block compiled, with a backend that keeps its numbers."""
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        block.compile(backend="eager")


def quantise(model: nn.Module) -> None:
    """Linear layers on int8 weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def offload_in_groups(kind: str) -> Any:
    """A change: weights brought in block by block, or layer by layer."""

    def change(model: Any) -> None:
        options = {"onload_device": CPU, "offload_device": CPU, "offload_type": kind, "num_blocks_per_group": 1}
        model.enable_group_offload(**options)

    return change


def offload_one_by_one(model: nn.Module) -> None:
    """Accelerate's sequential offload."""
    import accelerate

    weights = model.state_dict()
    kept: dict[str, Tensor] = {name: nn.Parameter(one.clone(), requires_grad=False) for name, one in weights.items()}
    accelerate.cpu_offload(model, CPU, state_dict=kept)


def dispatch(model: nn.Module) -> None:
    """An accelerate device map."""
    import accelerate

    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


# These change a copy of the model, which is thrown away afterwards.
ON_A_COPY = {
    "groups of blocks": offload_in_groups("block_level"),
    "groups of layers": offload_in_groups("leaf_level"),
    "one by one": offload_one_by_one,
    "device map": dispatch,
    "int8": quantise,
    "compiled blocks": compile_blocks,
    "gradient checkpointing": lambda model: model.train() and model.enable_gradient_checkpointing(),
}
HOSTS = (*ON_A_COPY, "adapter", "adapter", "fused adapter", "model offload", "tiling")


class Host:
    """A pipeline in one dtype, and what was done to it last.

    Args:
        pipe: the bundled pipeline; changed.
        dtype: one of ``DTYPES``.
    """

    def __init__(self, pipe: Any, dtype: str) -> None:
        self.dtype = DTYPES[dtype]
        self.pipe = pipe.to(self.dtype)
        self.copies: list[weakref.ref[nn.Module]] = []
        self._model = pipe.transformer
        self._adapter = adapter(self._model)
        self._control = control_network(self._model).to(self.dtype)
        self._sisters: dict[str, Any] = {}
        self._done = "plain"

    def prepare(self, what: str) -> None:
        """Where ``what`` cannot be undone, a copy of the model takes its place."""
        if what in ON_A_COPY or what == "fused adapter":
            self.pipe.transformer = copy.deepcopy(self._model)
            self.copies.append(weakref.ref(self.pipe.transformer))

    def change(self, what: str) -> None:
        """Do ``what``, one of ``HOSTS`` or "plain"."""
        self._done = what
        if what in ON_A_COPY:
            ON_A_COPY[what](self.pipe.transformer)
        elif what == "tiling":
            self.pipe.vae.enable_tiling()
            self.pipe.vae.enable_slicing()
        elif what == "model offload":
            self.pipe.enable_model_cpu_offload(device="cpu")
        elif what in ("adapter", "fused adapter"):
            self.pipe.load_lora_weights(dict(self._adapter), adapter_name="first")
            if what == "fused adapter":
                self.pipe.fuse_lora(lora_scale=0.6)

    @property
    def cannot(self) -> tuple[str, ...]:
        """Disturbances that this host does not survive unattached either."""
        if self._done == "int8":
            return ("NaN", "deepcopy", "pickle")  # torch's int8 layers raise where they meet one
        if self._done == "gradient checkpointing":
            return ("pickle",)  # diffusers keeps a local function on the model
        return () if self._done in ("plain", "tiling", "adapter", "fused adapter") else ("deepcopy", "pickle")

    def scale(self, factor: float) -> None:
        """The adapter's weight for the next picture, if there is one."""
        if self._done == "adapter":
            self.pipe.set_adapters(["first"], [factor])

    def restore(self) -> None:
        """As it was at the beginning."""
        what, self._done = self._done, "plain"
        if what == "tiling":
            self.pipe.vae.disable_tiling()
            self.pipe.vae.disable_slicing()
        elif what == "model offload":
            self.pipe.remove_all_hooks()
        elif what == "adapter":
            self.pipe.unload_lora_weights()
        elif what == "compiled blocks":
            torch._dynamo.reset()
        self.pipe.transformer = self._model
        for sister in self._sisters.values():
            sister.transformer = self._model

    def sister(self, kind: str) -> Any:
        """The pipeline of that kind on the same components; this one for "text"."""
        if kind == "text":
            return self.pipe
        if kind not in self._sisters:
            more = {"controlnet": self._control} if kind == "controlnet" else {}
            self._sisters[kind] = SISTERS[kind](**self.pipe.components, **more)
            self._sisters[kind].set_progress_bar_config(disable=True)
        sister = self._sisters[kind]
        sister.transformer = self.pipe.transformer
        return sister
