"""The nodes of the pack. Imported inside ComfyUI only."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension, io, ui

from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.patch import ModelPatch, patch_of, show_on_node, take_off
from foreseer.hosts.comfyui.profile_nodes import (
    CATEGORY,
    ForeseerLoadProfile,
    ForeseerSaveProfile,
    ForeseerTune,
    ProfileSocket,
)
from foreseer.hosts.comfyui.run_report import describe
from foreseer.hosts.offered import output_methods
from foreseer.methods.defaults import DEFAULT_SPEEDUP
from foreseer.methods.profile import Profile
from foreseer.methods.quality import QUALITIES

BY_SPEEDUP = "by speedup"


class Foreseer(io.ComfyNode):
    """Computes a few steps of every run and forecasts the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The widgets; workflows store their values by position, so that new ones go to the end."""
        qualities = [BY_SPEEDUP, *(name for name in QUALITIES if name != "exact")]
        return io.Schema(
            node_id="Foreseer",
            display_name="Foreseer",
            category=CATEGORY,
            description="Samples faster: computes a few steps, forecasts the others. Put it last before the sampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model, after LoRA and other patches."),
                io.Float.Input(
                    "speedup", default=DEFAULT_SPEEDUP, min=1.0, max=10.0, step=0.1, tooltip="Steps per computed step."
                ),
                io.Combo.Input(
                    "quality",
                    options=qualities,
                    default=BY_SPEEDUP,
                    tooltip="With a profile: an expected error to keep, in place of the speedup.",
                ),
                io.Combo.Input(
                    "method",
                    options=["auto", *output_methods()],
                    default="auto",
                    tooltip="auto: the profile's rows, or generic steps without a profile.",
                ),
                io.Boolean.Input("enabled", default=True, tooltip="Off: the model is passed on without Foreseer."),
                io.Int.Input(
                    "first_steps", default=1, min=1, max=100, tooltip="Steps that always compute at the beginning."
                ),
                io.Int.Input("last_steps", default=1, min=0, max=100, tooltip="Steps that always compute at the end."),
                ProfileSocket.Input("profile", optional=True, tooltip="From Foreseer Tune or Load Foreseer Profile."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, with Foreseer.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        *,
        model: Any,
        speedup: float,
        quality: str,
        method: str,
        enabled: bool,
        first_steps: int,
        last_steps: int,
        profile: Profile | None = None,
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        if not enabled:
            return io.NodeOutput(take_off(model))
        target: dict[str, Any] = {"speedup": speedup} if quality == BY_SPEEDUP else {"quality": quality}
        choice = Choice(
            method="" if method == "auto" else method,
            profile=profile,
            first_steps=first_steps,
            last_steps=last_steps,
            **target,
        )
        node_id = cls.hidden.unique_id
        return io.NodeOutput(ModelPatch(choice, lambda text: show_on_node(text, node_id)).put_on(model))


class ForeseerReport(io.ComfyNode):
    """Shows what the last run saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The patched model, and the latent so that the sampler runs first."""
        return io.Schema(
            node_id="ForeseerReport",
            display_name="Foreseer Report",
            category=CATEGORY,
            description="What the last run with this model computed and forecast.",
            inputs=[
                io.Model.Input("model", tooltip="The output of the Foreseer node."),
                io.Latent.Input("latent", tooltip="The sampler's output; passed on."),
            ],
            outputs=[io.Latent.Output(display_name="latent"), io.String.Output(display_name="report")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any) -> io.NodeOutput:
        """The newest report."""
        patch = patch_of(model)
        if patch is None:
            text = "Foreseer is not on this model: connect the output of an enabled Foreseer node."
        else:
            text = describe(patch.reports[-1]) if patch.reports else "No run has ended yet."
        return io.NodeOutput(latent, text, ui=ui.PreviewText(text))


class ForeseerExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        return [Foreseer, ForeseerTune, ForeseerLoadProfile, ForeseerSaveProfile, ForeseerReport]
