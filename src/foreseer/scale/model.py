"""Which pipeline a worker runs, as a name from which it builds the pipeline itself."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from foreseer.checks import check_kind
from foreseer.errors import ScaleError

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Model:
    """A pipeline by name.

    Args:
        name: ``"emoji"`` (bundled), a folder in diffusers' format, a hub id, or ``"module:function"``, a function
            without arguments that returns a pipeline (for adapters, quantisation, offloading).
        dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU and float32 elsewhere. Not for a function.
        device: by default the worker's GPU where it has one. Not for a function.
    """

    name: str
    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        check_kind("The name of a model", self.name, str, ScaleError)
        # Workers may run in another folder.
        if os.sep in self.name and Path(self.name).is_dir():
            object.__setattr__(self, "name", str(Path(self.name).absolute()))

    @property
    def is_function(self) -> bool:
        """Whether the name is that of a function which builds the pipeline."""
        return FUNCTION.fullmatch(self.name) is not None and not Path(self.name).exists()

    def load(self) -> tuple[Any, dict[str, Any]]:
        """The pipeline, and the options of its call that its folder gives.

        Raises:
            ForeseerError: the pipeline cannot be found or loaded.
        """
        if self.is_function:
            return _built(self.name), {}
        from foreseer.pipelines import load_pipeline, split_sampling

        pipe, sampling = load_pipeline(self.name, self.dtype, self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe, split_sampling(sampling)[1]


@dataclass(frozen=True)
class LiveModel:
    """A pipeline that exists in this process, and can only be used here."""

    pipe: Any = field(repr=False)
    name: str = ""

    def load(self) -> tuple[Any, dict[str, Any]]:
        """The pipeline; it brings no options."""
        return self.pipe, {}

    def __reduce__(self) -> NoReturn:
        raise ScaleError(
            f"Workers build their own pipeline, but a {type(self.pipe).__name__} object was given: give its name, its "
            "folder, or 'module:function' for a function that returns it."
        )


AnyModel = Model | LiveModel


def model_of(pipe: Any) -> AnyModel:
    """The model of a pipeline, of a name, or of a :class:`Model`.

    >>> model_of("emoji")
    Model(name='emoji', dtype=None, device=None)
    """
    if isinstance(pipe, Model | LiveModel):
        return pipe
    if isinstance(pipe, str | Path):
        return Model(str(pipe))
    return LiveModel(pipe)


def _built(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ScaleError(
            f"Cannot find {name!r} ({error}): expected module:function, with the module on Python's path."
        ) from error
    return build()
