"""The application: POST /generate, GET /health, GET /metrics, and a page about itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from examples.serve.about import about_page
from examples.serve.asked import Asked, Limits, asked_within
from examples.serve.draw import CancelledError, Drawn, Painter
from examples.serve.metrics import Metrics
from examples.serve.worker import FullError, Job, Worker

MOST_SENT = 2**20  # bytes of a body that is too long
GONE = 499  # what nginx logs where the client left; nobody reads it


class RefusedError(Exception):
    """A request that is answered without being drawn."""

    def __init__(self, status: int, words: Any, **headers: str) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, headers


def create_app(make_painter: Callable[[], Painter], limits: Limits | None = None) -> FastAPI:
    """The server of one painter.

    Args:
        make_painter: called once, when the server starts.
        limits: what it takes.
    """
    limits = limits or Limits()
    model, metrics = asked_within(limits), Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.worker = Worker(make_painter(), limits.queue, limits.together, metrics)
        app.state.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.worker.stop)

    # FastAPI's own pages load scripts from another host.
    app = FastAPI(title="Foreseer example server", lifespan=lifespan, docs_url=None, redoc_url=None)
    body = {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}

    @app.post("/generate", openapi_extra={"requestBody": body})
    async def generate(request: Request) -> Response:
        try:
            asked = await _read(request, model, limits)
            job = _submitted(request.app.state.worker, asked)
            drawn = await _drawn(request, job)
        except RefusedError as refused:
            metrics.requests.labels(str(refused.status)).inc()
            return JSONResponse({"detail": refused.words}, refused.status, refused.headers)
        metrics.requests.labels("200").inc()
        return Response(drawn.png, media_type="image/png", headers=_headers(asked, drawn))

    @app.get("/", include_in_schema=False)
    async def about() -> HTMLResponse:
        return HTMLResponse(about_page(model.model_json_schema()))

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        worker = request.app.state.worker
        words = {"status": "ok" if worker.alive else "no worker", "waiting": worker.waiting, "most": limits.queue}
        return JSONResponse(words, 200 if worker.alive else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _read(request: Request, model: type[Asked], limits: Limits) -> Asked:
    """The request's body, checked; no more of it is kept than is allowed.

    What is too long is read on for a while: who still sends when the line is closed does not get to see the answer.

    Raises:
        RefusedError: it is too long (413), too slow (408), no JSON or out of the limits (422), or the client left.
    """
    content, sent = b"", 0
    too_long = RefusedError(413, f"A request has at most {limits.body} bytes.", Connection="close")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:18]) > limits.body:
        raise too_long
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                content = content[: limits.body] + chunk
                sent += len(chunk)
                if sent > MOST_SENT:
                    break
    except TimeoutError as error:
        raise RefusedError(408, "The request took too long to arrive.", Connection="close") from error
    except ClientDisconnect as error:
        raise RefusedError(GONE, "The client left.") from error
    if sent > limits.body:
        raise too_long
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise RefusedError(422, error.errors(include_url=False, include_context=False, include_input=False)) from error


def _submitted(worker: Worker, asked: Asked) -> Job:
    try:
        return worker.submit(asked)
    except FullError as error:
        raise RefusedError(503, str(error), **{"Retry-After": str(error.retry_after)}) from error


async def _drawn(request: Request, job: Job) -> Drawn:
    """The picture; the job is given up where the client leaves first.

    Raises:
        RefusedError: the client left, the server stops, or the picture cannot be drawn (500).
    """
    picture = asyncio.ensure_future(asyncio.wrap_future(job.drawn))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((picture, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not picture.done():
            raise RefusedError(GONE, "The client left.")
        return picture.result()
    except (CancelledError, asyncio.CancelledError) as error:
        raise RefusedError(503, "The server stops.", **{"Retry-After": "5"}) from error
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(500, f"The picture could not be drawn: {type(error).__name__}.") from error
    finally:
        request.app.state.worker.cancel(job)
        picture.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(asked: Asked, drawn: Drawn) -> dict[str, str]:
    return {
        "X-Foreseer-Steps": str(drawn.steps),
        "X-Foreseer-NFE": str(drawn.nfe),
        "X-Foreseer-NFE-Saved": str(drawn.steps - drawn.nfe),
        "X-Foreseer-Fail-Opens": str(drawn.failed_open),
        "X-Foreseer-Seed": str(asked.seed),
    }
