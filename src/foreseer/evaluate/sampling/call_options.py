"""Options of the pipeline's call that all runs of a bench share."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from foreseer.pipelines import call_arguments

ArgumentBuilder = Callable[[Any, str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class CallOptions:
    """Options of the pipeline's call that all runs of a bench share.

    Attributes:
        options: keyword arguments for the pipeline's call (height, guidance, ...).
        decode: whether to make pictures; otherwise runs end at the latent.
        keep: numbers of steps after which the scheduler's sample is kept, besides the last.
        arguments: function from pipeline, prompt and options to the keyword arguments of a call.
    """

    options: dict[str, Any] = field(default_factory=dict)
    decode: bool = True
    keep: Container[int] = ()
    arguments: ArgumentBuilder = call_arguments
