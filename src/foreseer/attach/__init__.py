"""How a model is hooked, and let go."""

from typing import TYPE_CHECKING

from foreseer.attach.callable import WrappedModel, wrap
from foreseer.attach.handle import Handle
from foreseer.attach.record import FailOpen, RunRecord

if TYPE_CHECKING:
    from foreseer.attach.pipeline import accelerate

__all__ = ["FailOpen", "Handle", "RunRecord", "WrappedModel", "accelerate", "wrap"]


def __getattr__(name: str) -> object:
    # Attaching needs diffusers; wrapping a function does not.
    if name == "accelerate":
        from foreseer.attach.pipeline import accelerate

        globals()["accelerate"] = accelerate
        return accelerate
    raise AttributeError(f"module 'foreseer.attach' has no attribute {name!r}")
