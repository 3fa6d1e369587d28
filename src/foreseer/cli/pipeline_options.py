"""Options of every command that runs a pipeline: where it runs, and the pipeline's call."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from foreseer.cli.common import Dtype
from foreseer.cli.workers import GpusPerWorker, RayAddress, Workers, chosen_place

if TYPE_CHECKING:
    from foreseer.plan import Policy
    from foreseer.scale import Place

# Placeholder for the pipeline's own name of its picture argument.
PICTURE = "picture"
# Parameters of a command, with the pipeline's name of each.
NAMES = {
    "height": "height",
    "width": "width",
    "guidance": "guidance_scale",
    "true_cfg": "true_cfg_scale",
    "negative": "negative_prompt",
    "image": PICTURE,
}
SETUP: dict[str, Any] = {
    "dtype": Dtype,
    "device": Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")],
    "workers": Workers,
    "ray": RayAddress,
    "gpus_per_worker": GpusPerWorker,
}
CALL: dict[str, Any] = {
    "height": Annotated[int | None, typer.Option(min=8)],
    "width": Annotated[int | None, typer.Option(min=8)],
    "guidance": Annotated[float | None, typer.Option(help="guidance_scale of the pipeline.")],
    "true_cfg": Annotated[float | None, typer.Option(help="true_cfg_scale, where the pipeline has it.")],
    "negative": Annotated[str | None, typer.Option(help="Negative prompt.")],
    "image": Annotated[
        list[Path] | None, typer.Option(help="Input picture, for pipelines that take one; repeat it for several.")
    ],
    "option": Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Call option: num_frames=49, mask_image=@FILE, video=@FILE."),
    ],
}
# Arguments of a pipeline's call that commands set, and the option to give instead.
DECIDED = {
    "prompt": "a prompt",
    "class_labels": "a prompt",
    "num_inference_steps": "--steps",
    "generator": "--seed",
    "num_images_per_prompt": "a prompt for each picture",
    "output_type": "nothing: the command decides it",
    "return_dict": "nothing: the command decides it",
}


ModelName = Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")]
DEFAULT_STEPS = 50


class Opened(NamedTuple):
    """A pipeline or its name for workers, prompts, call options without steps, and the default steps."""

    pipe: Any
    prompts: list[str]
    options: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class Setup:
    """How a command runs its pipeline.

    Args:
        call: options by their names in the pipeline's call; pictures are paths, several a list.
        dtype, device, workers, ray, gpus_per_worker: as on the command line.
    """

    call: dict[str, Any]
    dtype: str | None = None
    device: str | None = None
    workers: int | None = None
    ray: str | None = None
    gpus_per_worker: float | None = None

    @cached_property
    def place(self) -> Place | None:
        """Where prompts are run; ``None`` for this process."""
        return chosen_place(self.workers, self.ray, self.gpus_per_worker)

    def check(self, model: str) -> Path:
        """Refuse what can be refused before the model is loaded; return its folder."""
        from foreseer import pipelines

        pipelines.check_placement(self.dtype, self.device)
        folder = pipelines.locate_model(model)
        pipelines.check_call(folder, self.call)
        return folder

    def check_guidance(self, model: str, policy: Policy | None) -> None:
        """Refuse rows that were learned with other guidance than the call is known to have.

        Raises:
            BadParameter: the two are far apart.
        """
        from foreseer import pipelines
        from foreseer.guidance import OTHER_GUIDANCE, difference, distance, read_guidance
        from foreseer.pipelines.call_guidance import guidance_in_folder

        learned = None if policy is None else read_guidance(policy.learned_on.get("guidance"))
        now = None if learned is None else guidance_in_folder(pipelines.locate_model(model), self.call)
        if learned is not None and now is not None and distance(learned, now) > 1:
            option = "--true-cfg" if "true_cfg_scale" in self.call else "--guidance"
            raise typer.BadParameter(f"{difference(learned, now)} {OTHER_GUIDANCE}", param_hint=option)

    def open(self, model: str, prompts: Path | None, *, load: bool | None = None) -> Opened:
        """Check the options, read the prompts, and load the pipeline.

        Args:
            model: name, folder or hub id.
            prompts: a text file; by default the model's examples.
            load: whether to load the pipeline; by default unless workers do.
        """
        from foreseer import pipelines

        self.check(model)
        texts = pipelines.read_prompts(prompts) if prompts is not None else None
        examples, options = pipelines.split_sampling(pipelines.sampling_of(model))
        if not (texts or examples):
            raise pipelines.PipelineError(f"{model!r} has no example prompts: give a file with --prompts.")
        steps = int(options.pop("num_inference_steps", DEFAULT_STEPS))
        if load or (load is None and self.place is None):
            pipe, _ = pipelines.load_pipeline(model, self.dtype, self.device)
            pipe.set_progress_bar_config(disable=True)
            options |= pipelines.with_pictures(pipe, self.call)
        else:
            from foreseer.scale import Model

            pipe = Model(model, self.dtype, self.device)
            options |= pipelines.read_pictures(self.call)
        return Opened(pipe, texts or examples, options, steps)


def runs_pipeline(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options in ``SETUP`` and ``CALL``; it receives them as ``setup``."""
    own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "setup"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=None, annotation=kinds) for name, kinds in (SETUP | CALL).items()]
    parameters = [item.replace(kind=kind) for item in own] + added

    def with_setup(**arguments: Any) -> None:
        call, setup = ({name: arguments.pop(name) for name in options} for options in (CALL, SETUP))
        command(**arguments, setup=Setup(_collect(call), **setup))

    with_setup.__name__, with_setup.__doc__ = command.__name__, command.__doc__
    with_setup.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    with_setup.__annotations__ = {item.name: item.annotation for item in parameters}
    return with_setup


def _collect(values: dict[str, Any]) -> dict[str, Any]:
    pictures = values["image"] or [None]
    values = {**values, "image": pictures if len(pictures) > 1 else pictures[0]}
    options = {name: values[key] for key, name in NAMES.items() if values[key] is not None}
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{name} is {value}; expected a finite number.")
    for text in values["option"] or ():
        name, value = _read_option(text)
        if name in options:
            raise typer.BadParameter(f"{name} is given twice.", param_hint="--option")
        options[name] = value
    return options


def _read_option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, the value as JSON or else as text; @FILE is the path of a picture."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise typer.BadParameter(f"{text!r}: write it as NAME=VALUE.", param_hint="--option")
    if name in DECIDED:
        raise typer.BadParameter(f"instead of {name} give {DECIDED[name]}.", param_hint="--option")
    if value.startswith("@"):
        return name, Path(value[1:])
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
