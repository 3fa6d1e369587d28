"""What a client may ask for, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        sizes: least and most height and width, in pixels.
        size_multiple: heights and widths are multiples of it.
        steps: least and most steps.
        speedup: the most.
        prompt: the most characters.
        body: the most bytes of a request.
        body_seconds: how long a request may take to arrive.
        queue: the most requests that wait, beside those that are drawn.
        together: the most that are drawn side by side.
    """

    sizes: tuple[int, int] = (32, 128)
    size_multiple: int = 16
    steps: tuple[int, int] = (2, 64)
    speedup: float = 10.0
    prompt: int = 300
    body: int = 4096
    body_seconds: float = 10.0
    queue: int = 16
    together: int = 4


class Asked(BaseModel):
    """One picture; the fields are those of :func:`asked_within`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    prompt: str
    seed: int = 0
    steps: int = 50
    height: int = 64
    width: int = 64
    speedup: float = 5.0

    @property
    def nfe(self) -> int:
        """Network evaluations: T / speedup, rounded."""
        return max(1, round(self.steps / self.speedup))


def asked_within(limits: Limits) -> type[Asked]:
    """The model of a request within ``limits``: whatever else it holds is refused."""
    low, high = limits.sizes
    side = Field(ge=low, le=high, multiple_of=limits.size_multiple)
    fields: dict[str, Any] = {
        "prompt": Annotated[str, Field(min_length=1, max_length=limits.prompt, pattern=r"\S")],
        "seed": (Annotated[int, Field(ge=0, lt=2**63)], 0),
        "steps": (Annotated[int, Field(ge=limits.steps[0], le=limits.steps[1])], 50),
        "height": (Annotated[int, side], 64),
        "width": (Annotated[int, side], 64),
        "speedup": (Annotated[float, Field(ge=1.0, le=limits.speedup, allow_inf_nan=False)], 5.0),
    }
    return create_model("Request", __base__=Asked, **fields)
