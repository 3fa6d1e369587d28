"""SGLang-diffusion: hooks around its native denoising stage and its diffusers stage.

Written against the source of sglang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from foreseer.grid import Grid, GridError
from foreseer.hosts.choice import Choice
from foreseer.hosts.served import ServedRun

STAGE = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage"
DIFFUSERS_STAGE = "sglang.multimodal_gen.runtime.pipelines.diffusers_pipeline.DiffusersExecutionStage"
KEY = "_foreseer"  # in Req.extra; the underscore keeps it out of transfers between workers
SERVED_QUALITY = "high"  # the level at which requests allow approximations such as feature caching


def register(options: Mapping[str, Any]) -> None:
    """Register the hooks. Called in a worker, before its pipeline exists.

    Raises:
        ForeseerError: the options are refused.
    """
    from sglang.multimodal_gen.runtime.managers.forward_context import get_forward_context
    from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType

    hooks = SGLangHooks.from_options(options, get_forward_context)
    for target, hook in hooks.targets().items():
        HookRegistry.register(target, hook, HookType.AROUND)


class SGLangHooks:
    """AROUND hooks: called with the original function and its arguments.

    Args:
        choice: method and budget.
        forward_context: returns SGLang's current forward context.
        always: serve requests of every quality, not of ``"high"`` only.
    """

    def __init__(self, choice: Choice, forward_context: Callable[[], Any], always: bool = False) -> None:
        self._choice = choice
        self._forward_context = forward_context
        self._always = always
        self._policy = choice.standing_policy()

    @classmethod
    def from_options(cls, options: Mapping[str, Any], forward_context: Callable[[], Any]) -> SGLangHooks:
        """Hooks for :class:`foreseer.hosts.choice.Choice`'s options, and ``always``."""
        rest = {name: value for name, value in options.items() if name != "always"}
        return cls(Choice.from_options(rest), forward_context, bool(options.get("always", False)))

    def targets(self) -> dict[str, Callable[..., Any]]:
        """The hooks by the dotted paths of what they go around."""
        return {
            f"{STAGE}._before_denoising_loop": self.begin,
            f"{STAGE}._predict_noise": self.predict,
            f"{STAGE}._finalize_denoising_loop": self.end,
            f"{DIFFUSERS_STAGE}.forward": self.run_diffusers,
        }

    def begin(self, original: Callable[..., Any], stage: Any, ctx: Any, batch: Any, server_args: Any) -> Any:
        """The loop of a request begins: its scheduler is set, so that its grid is known."""
        result = original(stage, ctx, batch, server_args)
        batch.extra.pop(KEY, None)
        if self._serves(batch) and not getattr(stage, "_cache_dit_enabled", False):
            request = ServedRun.begin(self._choice, lambda: _grid(ctx))
            if request.run is not None:
                batch.extra[KEY] = request
        return result

    def predict(
        self,
        original: Callable[..., Any],
        stage: Any,
        current_model: Any,
        latent_model_input: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One call of the network, once per branch of guidance."""
        context = self._forward_context()
        request = context.forward_batch.extra.get(KEY) if context.forward_batch is not None else None
        if request is None:
            return original(stage, current_model, latent_model_input, *args, **kwargs)
        return request.predict(
            int(context.current_timestep),
            current_model,
            (latent_model_input,),
            lambda: original(stage, current_model, latent_model_input, *args, **kwargs),
            "uncond" if getattr(context.forward_batch, "is_cfg_negative", False) else "cond",
        )

    def end(self, original: Callable[..., Any], stage: Any, ctx: Any, batch: Any, server_args: Any) -> Any:
        """The loop has ended: free the run before the picture is decoded."""
        request = batch.extra.pop(KEY, None)
        if request is not None:
            request.end()
        return original(stage, ctx, batch, server_args)

    def run_diffusers(self, original: Callable[..., Any], stage: Any, batch: Any, server_args: Any) -> Any:
        """The diffusers back end runs a whole pipeline per request."""
        from foreseer.attach.accelerate import attach

        policy = self._policy if self._serves(batch) else None
        pipe = stage.diffusers_pipe
        with nullcontext() if policy is None else attach(pipe, policy, on_other_guidance="compute"):
            return original(stage, batch, server_args)

    def _serves(self, batch: Any) -> bool:
        quality = getattr(batch.sampling_params, "quality", None)
        return not getattr(batch, "is_warmup", False) and (self._always or quality == SERVED_QUALITY)


def _grid(ctx: Any) -> Grid:
    """The noise levels of the loop: the last ones of its scheduler's."""
    grid = Grid.from_scheduler(ctx.scheduler)
    steps = len(ctx.timesteps)
    if steps > len(grid):
        raise GridError(
            f"The loop has {steps} timesteps and its scheduler {len(grid)} levels; expected at most as many."
        )
    return grid.tail(len(grid) - steps)
