"""A Ray Serve deployment: pipeline and kernel are loaded once per replica, each request has a quality.

serve run examples.ray_serve.app:app
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.serve.asked import Limits, asked_within
from examples.serve.draw import Drawn, Painter, emoji

# T / NFE of each quality.
SPEEDUPS = {"draft": 8.0, "standard": 5.0, "high": 3.0, "reference": 1.0}
# Replicas are added while more than two requests per replica wait or run, and removed after a minute of less.
AUTOSCALING = {"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 2, "downscale_delay_s": 60}


class Picture(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str = Field(min_length=1, max_length=300)
    quality: Literal["draft", "standard", "high", "reference"] = "standard"
    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int = Field(default=50, ge=2, le=64)


@serve.deployment(
    autoscaling_config=AUTOSCALING,
    ray_actor_options={"num_cpus": 1},  # and "num_gpus": 1 for a pipeline on a GPU
    max_ongoing_requests=4,
)
class Pictures:
    """A replica. Requests that it has accepted wait in its queue: a pipeline draws one picture at a time.

    Args:
        make: builds the painter in the replica; a function of a module.
    """

    def __init__(self, make: Callable[[], Painter] = emoji) -> None:
        self._painter = make()
        self._asked = asked_within(Limits())

    def draw(self, request: dict[str, Any]) -> Drawn:
        """Draw a request, given as plain values; for callers inside the cluster.

        Raises:
            ValidationError: a field is missing, unknown or out of its limits.
        """
        picture = Picture(**request)
        options = {"prompt": picture.prompt, "seed": picture.seed, "steps": picture.steps}
        return self._painter.draw(self._asked(**options, speedup=SPEEDUPS[picture.quality]))

    def __call__(self, request: Request) -> Response:
        """Answer a GET request whose query holds the fields, with a PNG."""
        query = dict(request.query_params)
        numbers = {name: int(text) if text.isdecimal() else text for name, text in query.items() if name != "prompt"}
        try:
            drawn = self.draw({**query, **numbers})
        except ValidationError as error:
            return JSONResponse({"detail": error.errors(include_url=False, include_context=False)}, status_code=422)
        headers = {"X-Foreseer-Steps": str(drawn.steps), "X-Foreseer-NFE": str(drawn.nfe)}
        return Response(drawn.png, media_type="image/png", headers=headers)


app = Pictures.bind()
