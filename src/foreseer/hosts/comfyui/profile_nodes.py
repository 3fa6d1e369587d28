"""The nodes that make, read and write profiles. Imported inside ComfyUI only."""

from __future__ import annotations

import os
from collections.abc import Sequence

import comfy.samplers
import folder_paths
from comfy_api.latest import io, ui

from foreseer.hosts.comfyui.patch import show_on_node
from foreseer.hosts.comfyui.recording import RecordError, Recording, summarise
from foreseer.hosts.comfyui.rolling import RolledRun
from foreseer.hosts.offered import load_profile
from foreseer.methods.profile import Profile

CATEGORY = "model_patches/foreseer"
FOLDER = "foreseer"
SUFFIX = ".profile.safetensors"

ProfileSocket = io.Custom("FORESEER_PROFILE")


class ForeseerTune(io.ComfyNode):
    """Learns a profile from full runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As KSampler's widgets."""
        return io.Schema(
            node_id="ForeseerTune",
            display_name="Foreseer Tune",
            category=CATEGORY,
            description="Learns a profile of this model, sampler and scheduler: one full run per positive. "
            "Connect a list of 4 to 16 conditionings.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model, without Foreseer."),
                io.Conditioning.Input("positive", tooltip="One or a list; each gives one run."),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the first run; the next ones follow.",
                ),
                io.Int.Input("steps", default=30, min=2, max=1000, tooltip="The profile serves other step counts too."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Boolean.Input(
                    "refine",
                    default=True,
                    optional=True,
                    tooltip="Fit rows on runs with forecasts too: smaller errors, about twice the time. "
                    "Needs two positives and a deterministic sampler.",
                ),
                io.Int.Input(
                    "iterations",
                    default=0,
                    min=0,
                    max=8,
                    optional=True,
                    tooltip="Of Gauss-Newton on all refined rows together: smaller errors still. Each costs K^3 / 6 "
                    "calls of the model per positive and speedup, with K computed steps.",
                ),
            ],
            outputs=[ProfileSocket.Output(display_name="profile"), io.String.Output(display_name="summary")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        *,
        model: list,
        positive: list,
        negative: list,
        latent_image: list,
        seed: list,
        steps: list,
        cfg: list,
        sampler_name: list,
        scheduler: list,
        denoise: list,
        refine: Sequence[bool] = (True,),
        iterations: Sequence[int] = (0,),
    ) -> io.NodeOutput:
        """Sample once per conditioning and learn; then again, in parts, to refine."""
        from nodes import common_ksampler  # pyright: ignore[reportAttributeAccessIssue]

        def sample(wrappers: Recording | RolledRun, index: int) -> None:
            common_ksampler(
                wrappers.put_on(model[0]),
                seed[0] + index,
                steps[0],
                cfg[0],
                sampler_name[0],
                scheduler[0],
                positive[index],
                negative[index % len(negative)],
                latent_image[index % len(latent_image)],
                denoise=denoise[0],
            )

        recording = Recording(keep=refine[0])
        for index in range(len(positive)):
            sample(recording, index)
        about = {"sampler": sampler_name[0], "scheduler": scheduler[0], "cfg": str(cfg[0]), "host": "ComfyUI"}
        named = {"model": type(model[0].model).__name__, **about}
        profile = recording.profile(named, sample, iterations[0], model[0].model_dtype())
        text = summarise(profile)
        show_on_node(text, cls.hidden.unique_id)
        return io.NodeOutput(profile, text)


class ForeseerLoadProfile(io.ComfyNode):
    """Reads a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One list of files."""
        return io.Schema(
            node_id="ForeseerLoadProfile",
            display_name="Load Foreseer Profile",
            category=CATEGORY,
            description=f"Reads a profile from the folder models/{FOLDER}.",
            inputs=[
                io.Combo.Input(
                    "file", options=folder_paths.get_filename_list(FOLDER), tooltip=f"A file in models/{FOLDER}."
                )
            ],
            outputs=[ProfileSocket.Output(display_name="profile")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        """A file that was written again is read again."""
        return f"{file} {os.stat(folder_paths.get_full_path_or_raise(FOLDER, file)).st_mtime_ns}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Read the file."""
        return io.NodeOutput(load_profile(folder_paths.get_full_path_or_raise(FOLDER, file)))


class ForeseerSaveProfile(io.ComfyNode):
    """Writes a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A profile and a name."""
        return io.Schema(
            node_id="ForeseerSaveProfile",
            display_name="Save Foreseer Profile",
            category=CATEGORY,
            description=f"Writes a profile to the folder models/{FOLDER}; a file of the same name is replaced.",
            inputs=[
                ProfileSocket.Input("profile"),
                io.String.Input("name", default="my-model", tooltip="File name, without folders."),
            ],
            outputs=[io.String.Output(display_name="path")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, profile: Profile, name: str) -> io.NodeOutput:
        """Write the file."""
        base = name.removesuffix(SUFFIX)
        if not base or base != os.path.basename(base) or base.startswith("."):
            raise RecordError(f"{name!r} is not a plain file name.")
        folder = folder_paths.get_folder_paths(FOLDER)[0]
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, base + SUFFIX)
        profile.save(path)
        return io.NodeOutput(path, ui=ui.PreviewText(f"saved {base + SUFFIX}"))


def register_folder() -> None:
    """Tell ComfyUI where profiles lie."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
