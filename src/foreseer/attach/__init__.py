"""How a model is hooked, and let go."""

from typing import TYPE_CHECKING

from foreseer.attach.callable import WrappedModel, wrap
from foreseer.attach.handle import Handle
from foreseer.attach.record import FailOpen, RunRecord
from foreseer.attach.runs import RunCall, Runs
from foreseer.attach.single_run import Run

if TYPE_CHECKING:
    from foreseer.attach.pipeline import accelerate, detach

__all__ = ["FailOpen", "Handle", "Run", "RunCall", "RunRecord", "Runs", "WrappedModel", "accelerate", "detach", "wrap"]


def __getattr__(name: str) -> object:
    # Attaching needs diffusers; wrapping a function does not.
    if name in ("accelerate", "detach"):
        from foreseer.attach import pipeline

        globals()[name] = getattr(pipeline, name)
        return globals()[name]
    raise AttributeError(f"module 'foreseer.attach' has no attribute {name!r}")
