"""Options of a pipeline's call, which several commands share."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

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
OPTIONS: dict[str, Any] = {
    "height": Annotated[int | None, typer.Option(min=8)],
    "width": Annotated[int | None, typer.Option(min=8)],
    "guidance": Annotated[float | None, typer.Option(help="guidance_scale of the pipeline.")],
    "true_cfg": Annotated[float | None, typer.Option(help="true_cfg_scale, where the pipeline has it.")],
    "negative": Annotated[str | None, typer.Option(help="Negative prompt.")],
    "image": Annotated[Path | None, typer.Option(help="Input picture, for pipelines that take one.")],
    "option": Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Call option: num_frames=49, mask_image=@FILE."),
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


def takes_call_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the pipeline's call; it receives them as one dictionary, ``call``.

    The keys are the names in the pipeline's call; pictures are paths.
    """
    own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "call"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=None, annotation=OPTIONS[name]) for name in OPTIONS]
    parameters = [item.replace(kind=kind) for item in own] + added

    def with_call_options(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in OPTIONS}
        command(**arguments, call=_collect(values))

    with_call_options.__name__, with_call_options.__doc__ = command.__name__, command.__doc__
    with_call_options.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    with_call_options.__annotations__ = {item.name: item.annotation for item in parameters}
    return with_call_options


def _collect(values: dict[str, Any]) -> dict[str, Any]:
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
