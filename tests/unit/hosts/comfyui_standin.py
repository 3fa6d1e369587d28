"""Stand-in for ComfyUI 0.3.64's two wrapper points, their arguments, options and conditions.

Only the contract is reproduced, with a small network and samplers; test_comfyui_real.py runs the real one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Executor:
    """A chain of wrappers around a function: a wrapper is called with the executor of the rest."""

    def __init__(self, original: Any, class_obj: Any, wrappers: list[Any]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        rest = Executor(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](rest, *args, **kwargs)


class Patcher:
    """A model with options and wrappers; clones are independent."""

    def __init__(self, network: Any) -> None:
        self.model = network
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}

    def clone(self) -> Patcher:
        copy = Patcher(self.model)
        copy.model_options = copied(self.model_options)
        copy.wrappers = copied(self.wrappers)
        return copy

    def model_dtype(self) -> torch.dtype:
        return torch.float32

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def get_wrappers(self, kind: str, key: str) -> list[Any]:
        return self.wrappers.get(kind, {}).get(key, [])


def copied(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: copied(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
        for key, value in options.items()
    }


class Network:
    """Guided denoised sample of a smooth field that depends on the active conditions; counts calls."""

    def __init__(self, shift: float = 0.0) -> None:
        self.calls, self.levels, self.shift = 0, [], shift

    def __call__(self, x: Tensor, sigma: float, conditions: dict[str, list[dict[str, Any]]]) -> Tensor:
        self.calls += 1
        self.levels.append(sigma)
        active = sum(
            condition.get("value", 0.0)
            for condition in conditions.get("positive", [])
            if condition.get("timestep_start", 1e9) >= sigma >= condition.get("timestep_end", -1.0)
        )
        return x - sigma * torch.sin(0.3 * x + 0.7 * sigma**0.5 + active + self.shift)


class Guider:
    """Runs a sampler on a patcher, as CFGGuider does from inner_sample on."""

    def __init__(self, patcher: Patcher, conds: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self.patcher, self.conds, self.inner_model = patcher, conds or {}, None

    def sample(self, noise: Tensor, sampler: Sampler, sigmas: Tensor, callback: Any = None, seed: int = 0) -> Tensor:
        options = copied(self.patcher.model_options)
        options["transformer_options"]["wrappers"] = copied(self.patcher.wrappers)
        options["transformer_options"]["sample_sigmas"] = sigmas
        self.seen_options = options
        extra_args = {"model_options": options, "seed": seed}
        chain = Executor(sampler.sample, sampler, self._wrappers("sampler_sample"))
        return chain(self, sigmas, extra_args, callback, noise, None, None, True)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
        return Executor(self.predict_noise, self, self._wrappers("predict_noise"))(x, timestep, model_options, seed)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        denoised = self.patcher.model(x, float(timestep[0]), self.conds)
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": denoised * 0.9})
        return denoised

    def _wrappers(self, kind: str) -> list[Any]:
        return [wrapper for wrappers in self.patcher.wrappers.get(kind, {}).values() for wrapper in wrappers]


class MaskedModel:
    """What a sampler calls: the guider, with the options of the run."""

    def __init__(self, guider: Guider) -> None:
        self.inner_model = guider

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None, **rest: Any) -> Tensor:
        return self.inner_model(x, sigma, model_options=model_options or {}, seed=rest.get("seed"))


class Sampler:
    """A sampler function and its options."""

    def __init__(self, sampler_function: Any, **extra_options: Any) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options

    def sample(
        self, guider: Guider, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *rest: Any
    ) -> Tensor:
        return self.sampler_function(
            MaskedModel(guider),
            noise * sigmas[0],
            sigmas,
            extra_args=extra_args,
            callback=callback,
            disable=True,
            **self.extra_options,
        )


def _at(x: Tensor, sigma: Any) -> Tensor:
    return torch.full((x.shape[0],), float(sigma))


def euler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    for i in range(len(sigmas) - 1):
        denoised = model(x, _at(x, sigmas[i]), **extra_args)
        if callback is not None:
            callback({"i": i, "denoised": denoised, "x": x})
        x = x + (sigmas[i + 1] - sigmas[i]) * (x - denoised) / sigmas[i]
    return x


def two_step(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    """Adams-Bashforth in sigma: linear, and not Euler."""
    before = None
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, _at(x, sigmas[i]), **extra_args)) / sigmas[i]
        used = slope if before is None else 1.5 * slope - 0.5 * before
        x, before = x + (sigmas[i + 1] - sigmas[i]) * used, slope
    return x


def ancestral(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    for i in range(len(sigmas) - 1):
        denoised = model(x, _at(x, sigmas[i]), **extra_args)
        x = denoised + (x - denoised) * 0.9 * sigmas[i + 1] / sigmas[i] + torch.randn_like(x) * 0.1 * sigmas[i + 1]
    return x


def heun(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    """Visits every level but the first and the last two times."""
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, _at(x, sigmas[i]), **extra_args)) / sigmas[i]
        width = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] > 0:
            ahead = x + width * slope
            slope = 0.5 * (slope + (ahead - model(ahead, _at(x, sigmas[i + 1]), **extra_args)) / sigmas[i + 1])
        x = x + width * slope
    return x


def midpoint(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    """Calls at a level and between it and the next."""
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, _at(x, sigmas[i]), **extra_args)) / sigmas[i]
        middle = 0.5 * (sigmas[i] + sigmas[i + 1])
        ahead = x + (middle - sigmas[i]) * slope
        slope = (ahead - model(ahead, _at(x, middle), **extra_args)) / middle
        x = x + (sigmas[i + 1] - sigmas[i]) * slope
    return x


def euler_cfg_pp(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: bool) -> Tensor:
    """Reads the unconditional prediction through a separate post-CFG function."""
    seen: dict[str, Tensor] = {}

    def keep(args: dict[str, Tensor]) -> Tensor:
        seen["uncond"] = args["uncond_denoised"]
        return args["denoised"]

    options = dict(extra_args["model_options"])
    options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), keep]
    extra_args = {**extra_args, "model_options": options}
    for i in range(len(sigmas) - 1):
        denoised = model(x, _at(x, sigmas[i]), **extra_args)
        x = denoised + (x - seen.pop("uncond")) / sigmas[i] * sigmas[i + 1]
    return x


SAMPLERS = {function.__name__: function for function in (euler, two_step, ancestral, heun, midpoint, euler_cfg_pp)}


def sigmas(steps: int, highest: float = 14.6) -> Tensor:
    """Levels as a scheduler gives them, the last being 0."""
    ramp = torch.linspace(highest ** (1 / 7), 0.03 ** (1 / 7), steps) ** 7
    return torch.cat([ramp, torch.zeros(1)])


def noise(seed: int = 0, shape: tuple[int, ...] = (1, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
