"""Random settings of the bundled pipeline for the soak: everything that users change.

A generation is described by text and numbers, so that a separate process can repeat it.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

import foreseer as fs
from benchmarks.common import bundled
from benchmarks.soak_hosts import DTYPES, HOSTS, Host

BUDGETS = (2, 3, 5, 8)
PIPELINES = (*["text"] * 6, "image", "image", "inpaint", "controlnet", "own loop", "own loop")
BREAKING = ("exception", "ctrl-c", "interrupt", "NaN", "foreign call")
HARMLESS = ("rewritten latents", "rewritten prompt", "given latents", "thread", "deepcopy", "pickle")


class BrokenOffError(Exception):
    """What a disturbed run is broken off with."""


def draw_handle(dice: random.Random, unattached: bool = False, plain: bool = False) -> dict[str, Any]:
    """A host setting, and a method at a random budget or no attachment at all."""
    names = [name for name, method in fs.methods.METHODS.items() if name != "l2p" and not method.reduces_steps]
    host = dice.choice([*["plain"] * 5, *HOSTS])
    host = "plain" if plain else host
    none, name = dice.random() < 0.1, dice.choice(names)
    dtype = dice.choice(["float32", "float32", "float32", "bfloat16", "float16"])
    return {
        "dtype": "float32" if host == "int8" else dtype,  # torch's int8 layers take no other
        "host": host,
        "changed": dice.choice(["before attaching", "after attaching"]),
        "method": None if none or unattached else name,
        "nfe": dice.choice(BUDGETS),
        "keep": dice.choice(["device", "device", "host"]),
        "steps": dice.choice([8, 12, 16]),
    }


def draw_run(dice: random.Random, prompts: list[str], broken: bool = True) -> dict[str, Any]:
    """One generation; with ``broken=False`` one that ends."""
    steps = dice.choice([4, 6, 8, 10, 12, 16])
    kinds = [*["none"] * 7, *HARMLESS, *(BREAKING if broken else ())]
    return {
        "pipeline": dice.choice(PIPELINES),
        "prompts": dice.sample(prompts, dice.choice([1, 1, 1, 2])),
        "images": dice.choice([1, 1, 1, 2]),
        "steps": steps,
        "size": dice.choice([48, 64, 64, 80]),
        "guidance": dice.choice([None, None, 2.0, 3.0]),
        "guided": sorted(dice.sample(range(steps + 1), 2)),
        "part": dice.choice([[0.0, 1.0], [0.0, 1.0], [0.0, 0.6], [0.5, 1.0]]),
        "scheduler": dice.choice(["euler", "euler", "euler", "unipc", "heun"]),
        "strength": dice.choice([0.5, 0.9, 1.0]),
        "scale": dice.choice([0.0, 0.4, 1.0]),
        "disturbance": dice.choice(kinds),
        "at": dice.randrange(steps),
        "seed": dice.randrange(2**31),
    }


def digest(latent: Tensor) -> str:
    """A name for the bits of a latent."""
    return hashlib.sha256(latent.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


class Studio:
    """The bundled pipeline in three dtypes, its schedulers, and other pipelines on its transformer."""

    def __init__(self) -> None:
        pipe, self.prompts, _ = bundled()
        torch.manual_seed(0)
        self.hosts = {dtype: Host(copy.deepcopy(pipe), dtype) for dtype in DTYPES}
        self.host = self.hosts["float32"]
        self.handle: fs.Handle | None = None
        self.refused = 0
        self.schedulers = {
            "euler": pipe.scheduler,
            "unipc": diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
            "heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
        }

    def attach(self, asked: dict[str, Any]) -> fs.Handle | None:
        """Let go of the last handle and host setting; make those asked for."""
        self.let_go()
        self.host = self.hosts[asked["dtype"]]
        self.host.prepare(asked["host"])
        if asked["changed"] == "before attaching":
            self.host.change(asked["host"])
        if asked["method"] is not None:
            policy = fs.methods.find(asked["method"]).policy(asked["steps"], min(asked["nfe"], asked["steps"]))
            try:
                self.handle = fs.accelerate(self.host.pipe, policy, keep=asked["keep"])
            except fs.errors.AttachError:  # a site that this host does not serve; the run is without one
                self.refused += 1
        if asked["changed"] == "after attaching":
            self.host.change(asked["host"])
        return self.handle

    def let_go(self) -> None:
        """Detach, and put the host back as it was."""
        if self.handle is not None:
            self.handle.detach()
            self.handle = None
        self.host.restore()

    def run(self, asked: dict[str, Any]) -> str | None:
        """The digest of the final latent; ``None`` for a run that was broken off."""
        self.host.scale(asked["scale"])
        self.host.pipe.scheduler = self.schedulers[asked["scheduler"]]
        # Heun's scheduler takes neither sigmas nor a late start.
        if asked["pipeline"] == "own loop" or asked["scheduler"] == "heun":
            return digest(self._own_loop(asked))
        kind = asked["pipeline"] if asked["scheduler"] == "euler" else "text"
        pipe, options = self._options(kind, asked)
        if asked["disturbance"] in self.host.cannot:
            asked = {**asked, "disturbance": "none"}
        return Disturbance(asked, pipe, options).run()

    def _options(self, kind: str, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        generator = torch.Generator().manual_seed(asked["seed"])
        pipe, size = self.host.sister(kind), asked["size"]
        pipe.scheduler = self.host.pipe.scheduler
        options: dict[str, Any] = {
            "prompt": asked["prompts"],
            "num_images_per_prompt": asked["images"],
            "num_inference_steps": asked["steps"],
            "height": size,
            "width": size,
            "max_sequence_length": 16,
            "generator": generator,
            "output_type": "latent",
        }
        if asked["guidance"] is not None:
            options |= {"true_cfg_scale": asked["guidance"], "negative_prompt": [""] * len(asked["prompts"])}
        picture = torch.rand(1, 3, size, size, generator=generator).to(self.host.dtype)
        if kind in ("image", "inpaint"):
            options |= {"image": picture, "strength": asked["strength"]}
        if kind == "inpaint":
            options["mask_image"] = (picture[:, :1] > 0.5).float()
        if kind == "controlnet":
            options |= {"control_image": picture, "controlnet_conditioning_scale": 0.5}
        if asked["disturbance"] == "given latents" and kind == "text":
            pictures, side = len(asked["prompts"]) * asked["images"], size // (2 * pipe.vae_scale_factor)
            shape = (pictures, side**2, pipe.transformer.config.in_channels)
            options["latents"] = torch.randn(shape, generator=generator).to(self.host.dtype)
        return pipe, options

    def _own_loop(self, asked: dict[str, Any]) -> Tensor:
        """A user-defined loop: guidance at some steps, a hand-over, schedulers that pipelines refuse."""
        pipe, generator, dtype = self.host.pipe, torch.Generator().manual_seed(asked["seed"]), self.host.dtype
        words = {"max_sequence_length": 16}
        with torch.no_grad():
            embeds, pooled, text_ids = pipe.encode_prompt(asked["prompts"], asked["prompts"], **words)
            empty = pipe.encode_prompt([""] * len(embeds), [""] * len(embeds), **words)
        side = asked["size"] // (2 * pipe.vae_scale_factor)
        shape = (len(embeds), side * side, pipe.transformer.config.in_channels)
        sample = randn_tensor(shape, generator=generator, dtype=dtype)
        image_ids = pipe._prepare_latent_image_ids(len(embeds), side, side, sample.device, dtype)
        pipe.scheduler.set_timesteps(asked["steps"])
        timesteps = pipe.scheduler.timesteps
        first, last = (round(part * len(timesteps)) for part in asked["part"])
        if first and hasattr(pipe.scheduler, "set_begin_index"):
            pipe.scheduler.set_begin_index(first)

        def call(branch: str, timestep: Tensor, words: Tensor, pool: Tensor) -> Tensor:
            with pipe.transformer.cache_context(branch):
                return pipe.transformer(
                    hidden_states=sample,
                    timestep=timestep.expand(len(embeds)).to(dtype) / 1000,
                    pooled_projections=pool,
                    guidance=embedded_guidance(pipe.transformer, len(embeds), dtype),
                    encoder_hidden_states=words,
                    txt_ids=text_ids,
                    img_ids=image_ids,
                    return_dict=False,
                )[0]

        with torch.no_grad():
            for index, timestep in enumerate(timesteps[first:last]):
                output = call("cond", timestep, embeds, pooled)
                if asked["guidance"] is not None and asked["guided"][0] <= index < asked["guided"][1]:
                    other = call("uncond", timestep, empty[0], empty[1])
                    output = other + asked["guidance"] * (output - other)
                sample = pipe.scheduler.step(output, timestep, sample, return_dict=False)[0].to(dtype)
        return sample


def embedded_guidance(model: Any, batch: int, dtype: torch.dtype) -> Tensor | None:
    """The guidance scale that a distilled model takes as an input; ``None`` for others."""
    return torch.full((batch,), 3.5, dtype=dtype) if model.config.guidance_embeds else None


class Disturbance:
    """A pipeline's call in the middle of which something happens."""

    def __init__(self, asked: dict[str, Any], pipe: Any, options: dict[str, Any]) -> None:
        self._kind, self._at = asked["disturbance"], asked["at"]
        self._pipe, self._options = pipe, options

    def run(self) -> str | None:
        """The digest of what came out; ``None`` if that is nobody's picture."""
        found: list[Tensor] = []

        def call() -> None:
            found.append(self._pipe(**self._options, callback_on_step_end=self._at_step, **asks).images)

        asks = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
        hook = self._spoil() if self._kind == "NaN" else None
        try:
            if self._kind == "thread":
                thread = threading.Thread(target=call)
                thread.start()
                thread.join()
            else:
                call()
        except (BrokenOffError, KeyboardInterrupt):
            return None
        finally:
            if hook is not None:
                hook.remove()
        return None if self._kind in BREAKING else digest(found[0])

    def _spoil(self) -> Any:
        """From a computed step on, not-a-number out of a block."""
        calls = iter(range(10**6))

        def nan(module: nn.Module, given: Any, output: Any) -> Any:
            if next(calls) >= self._at:
                return tuple(torch.full_like(one, torch.nan) for one in output)
            return None

        return self._pipe.transformer.transformer_blocks[0].register_forward_hook(nan)

    def _at_step(self, pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if self._kind == "rewritten latents":
            given["latents"] = given["latents"] * (1 + 0.01 * (step == self._at))
        if self._kind == "rewritten prompt" and step >= self._at:
            given["prompt_embeds"] = given["prompt_embeds"] if step > self._at else given["prompt_embeds"] * 0.9
        doing: dict[str, Callable[[], Any]] = {
            "exception": self._raise(BrokenOffError),
            "ctrl-c": self._raise(KeyboardInterrupt),
            "interrupt": lambda: setattr(pipe, "_interrupt", True),
            "deepcopy": lambda: copy.deepcopy(pipe.transformer),
            "pickle": lambda: pickle.loads(pickle.dumps(pipe.transformer)),
            "foreign call": lambda: self._foreign(pipe),
        }
        if step == self._at and self._kind in doing:
            doing[self._kind]()
        return given

    @staticmethod
    def _raise(error: type[BaseException]) -> Callable[[], None]:
        def stop() -> None:
            raise error

        return stop

    @staticmethod
    def _foreign(pipe: Any) -> None:
        """A call of somebody else's, of another batch and size."""
        model, dtype = pipe.transformer, pipe.dtype
        with torch.no_grad():
            model(
                hidden_states=torch.zeros(3, 4, model.config.in_channels, dtype=dtype),
                timestep=torch.full((3,), 0.3, dtype=dtype),
                pooled_projections=torch.zeros(3, model.config.pooled_projection_dim, dtype=dtype),
                guidance=embedded_guidance(model, 3, dtype),
                encoder_hidden_states=torch.zeros(3, 5, model.config.joint_attention_dim, dtype=dtype),
                txt_ids=torch.zeros(5, 3, dtype=dtype),
                img_ids=torch.zeros(4, 3, dtype=dtype),
                return_dict=False,
            )
