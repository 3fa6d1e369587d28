"""The example server: refusals, cancelled requests, and pictures equal to those of a serial run."""

import asyncio
import contextlib
import io
import json
import threading

import pytest
import torch
from examples.serve.app import create_app
from examples.serve.asked import Limits, asked_within
from examples.serve.draw import CancelledError, Drawn, emoji
from examples.serve.load import run
from prometheus_client.parser import text_string_to_metric_families

import foreseer as fs

GOOD = {"prompt": "a red apple", "steps": 20, "speedup": 5.0}


def test_under_load_no_request_is_lost_wrong_or_mixed_up():
    found = run(20, 4, seed=3, most_steps=5, queue=2)
    assert found["faults"] == []
    answers = found["answers"]
    assert answers["good: 200"] >= 8
    assert sum(count for kind, count in answers.items() if "422" in kind or "413" in kind) >= 3
    assert answers["leaves: nobody waits"] >= 3
    assert found["server"]["foreseer_nfe_saved_total"] > 0
    assert found["server"]["foreseer_request_seconds_count"] >= answers["good: 200"]


@pytest.fixture(scope="module")
def painter():
    return emoji()


def test_the_server_describes_itself_without_another_host():
    async def test(app, painter):
        pages = {path: Asking(app, b"", path, "GET") for path in ("/", "/docs", "/redoc", "/openapi.json")}
        await asyncio.gather(*(page.task for page in pages.values()))
        assert [page.status for page in pages.values()] == [200, 404, 404, 200]
        page = pages["/"].content.decode()
        assert "src=" not in page
        assert "://" not in page
        for name, about in asked_within(Limits()).model_json_schema()["properties"].items():
            assert f"<td>{name}</td>" in page
            assert str(about.get("maximum", about.get("maxLength", ""))) in page
        schema = json.loads(pages["/openapi.json"].content)
        assert set(schema["paths"]) == {"/generate", "/health", "/metrics"}

    serving(test)


def test_a_painter_is_warm_before_it_is_asked(painter):
    default = asked_within(Limits())(prompt="a panda on a red background")
    assert default.nfe in painter._policies


def test_after_an_interrupted_picture_the_next_is_the_same(painter):
    model = asked_within(Limits())
    one = model(prompt="a panda", steps=8, speedup=2.0)
    before = painter.draw(one)
    assert (before.steps, before.nfe, before.failed_open) == (8, 4, 0)
    for steps in (1, 4):
        left = iter([False] * steps)
        with pytest.raises(CancelledError):
            painter.draw(model(prompt="a rocket", seed=9, steps=10, speedup=2.5), lambda left=left: next(left, True))
        assert painter.draw(one) == before
    assert painter.draw(model(prompt="a panda", steps=8, speedup=1.0)).nfe == 8
    assert painter.draw(one) == before


def test_pictures_side_by_side_are_those_drawn_alone_and_those_of_the_pipeline(painter):
    model = asked_within(Limits())
    asked = [
        model(prompt="a panda", steps=8, speedup=2.0),
        model(prompt="a rocket", seed=5, steps=12, speedup=4.0),
        model(prompt="a red apple", seed=7, steps=5, speedup=1.0),
        model(prompt="a panda", seed=2, steps=9, speedup=3.0, height=32, width=96),
    ]
    calls = []
    hook = painter.pipe.transformer.register_forward_pre_hook(lambda module, args: calls.append(1))
    waiting, live, together, turns = list(asked), [], {}, 0
    while waiting or live:
        if waiting:
            live.append(painter.begin(waiting.pop()))  # joins while the others are on their way
        painter.turn(live)
        turns += 1
        together |= {sketch.asked: painter.finish(sketch) for sketch in live if sketch.done}
        live = [sketch for sketch in live if not sketch.done]
    hook.remove()
    assert turns < 20
    assert len(calls) == sum(drawn.nfe for drawn in together.values()) == 4 + 3 + 5 + 3
    assert together == {one: painter.draw(one) for one in asked}
    first = asked[0]
    with fs.accelerate(painter.pipe, painter.policy(first)):
        output = painter.pipe(first.prompt, num_inference_steps=8, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    output.images[0].save(buffer, "PNG")
    assert together[first].png == buffer.getvalue()


def test_a_batch_needs_fewer_calls_of_the_network(painter, monkeypatch):
    monkeypatch.setattr(painter, "batch", True)
    model = asked_within(Limits())
    asked = [model(prompt="a panda", seed=seed, steps=steps, speedup=2.0) for seed, steps in ((0, 6), (1, 6), (2, 4))]
    sizes = []
    hook = painter.pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    live, alone = [painter.begin(one) for one in asked], [painter.begin(one) for one in asked]
    for _ in range(4):
        painter.turn(live)
    hook.remove()
    assert max(sizes) == 3
    for mine, its in zip(live, alone, strict=True):
        for _ in range(4):
            painter.turn([its])
        torch.testing.assert_close(mine.latents, its.latents, rtol=1e-3, atol=1e-3)


class SlowSketch:
    def __init__(self, asked):
        self.asked, self.done = asked, False


class Slow:
    """A painter whose pictures are done when they are released."""

    def __init__(self):
        self.begun, self.go, self.dropped = threading.Semaphore(0), threading.Semaphore(0), []

    def begin(self, asked):
        self.begun.release()
        return SlowSketch(asked)

    def turn(self, sketches):
        for sketch in sketches:
            if self.go.acquire(timeout=0.01):
                if sketch.asked.prompt == "trouble":
                    self.go.release()
                    raise RuntimeError("no such luck")
                sketch.done = True

    def finish(self, sketch):
        asked = sketch.asked
        return Drawn(f"picture {asked.seed}".encode(), asked.steps, asked.nfe, 1)

    def drop(self, sketch):
        self.dropped.append(sketch.asked.seed)


class Asking:
    """One request to an application, without a socket between."""

    def __init__(self, app, body, path="/generate", method="POST", ends=True, headers=()):
        self.body, self.ends, self.left = body, ends, asyncio.Event()
        self.status, self.content, self.headers = 0, b"", {}
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
        self.task = asyncio.create_task(app({**scope, "http_version": "1.1", "app": app}, self.receive, self.send))

    async def receive(self):
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": not self.ends}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.content += message.get("body", b"")


def serving(test, limits=None):
    """Run ``test`` on an application with a slow painter."""

    async def whole():
        painter = Slow()
        app = create_app(lambda: painter, limits)
        async with app.router.lifespan_context(app):
            with contextlib.ExitStack() as stack:
                stack.callback(painter.go.release, 100)
                await asyncio.wait_for(test(app, painter), 60)
        return painter

    return asyncio.run(whole())


def body(**more):
    return json.dumps({**GOOD, **more}).encode()


async def metrics(app):
    asking = Asking(app, b"", "/metrics", "GET")
    await asking.task
    families = text_string_to_metric_families(asking.content.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_the_queue_is_bounded_and_says_when_to_come_again():
    async def test(app, painter):
        asked = [Asking(app, body(seed=0))]
        await asyncio.to_thread(painter.begun.acquire)
        asked += [Asking(app, body(seed=seed)) for seed in (1, 2)]
        await asyncio.sleep(0.05)
        assert (await metrics(app))[("foreseer_queue_length",)] == 2
        refused = Asking(app, body(seed=3))
        await refused.task
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        painter.go.release(3)
        for seed, one in enumerate(asked):
            await one.task
            assert (one.status, one.content) == (200, f"picture {seed}".encode())
            assert one.headers["x-foreseer-nfe"] == "4"
            assert one.headers["x-foreseer-nfe-saved"] == "16"
            assert one.headers["x-foreseer-fail-opens"] == "1"
        counted = await metrics(app)
        assert counted[("foreseer_requests_total", "200")] == 3
        assert counted[("foreseer_requests_total", "503")] == 1
        assert counted[("foreseer_nfe_computed_total",)] == 12
        assert counted[("foreseer_nfe_saved_total",)] == 48
        assert counted[("foreseer_fail_opens_total",)] == 3
        assert counted[("foreseer_request_seconds_count",)] == 3

    serving(test, Limits(queue=2, together=1))


def test_who_leaves_frees_the_worker_and_the_queue():
    async def test(app, painter):
        drawn, waiting = Asking(app, body(seed=1)), Asking(app, body(seed=2))
        await asyncio.to_thread(painter.begun.acquire)
        waiting.left.set()
        await waiting.task
        assert app.state.worker.waiting == 0
        drawn.left.set()
        await drawn.task
        stays = Asking(app, body(seed=3))
        await asyncio.to_thread(painter.begun.acquire)
        painter.go.release()
        await stays.task
        assert stays.content == b"picture 3"

    assert serving(test, Limits(together=1)).dropped == [1]


def test_a_picture_that_cannot_be_drawn_is_an_error_of_its_own(caplog):
    async def test(app, painter):
        asked = [(Asking(app, body(prompt=prompt)), status) for prompt, status in (("trouble", 500), ("fine", 200))]
        for _ in asked:
            await asyncio.to_thread(painter.begun.acquire)
        painter.go.release(2)
        for asking, status in asked:
            await asking.task
            assert asking.status == status
        health = Asking(app, b"", "/health", "GET")
        await health.task
        assert json.loads(health.content)["status"] == "ok"

    assert serving(test).dropped == [0]
    assert "no such luck" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "status"),
    [
        (b"x" * 5000, {}, 413),
        (b"", {"headers": [(b"content-length", b"99999")]}, 413),
        (b'{"prompt"', {"ends": False}, 408),
        (b'{"prompt": "\\ud800"}', {}, 422),
        (b'{"prompt": "a", "speedup": 1e999}', {}, 422),
        (b'{"prompt": "a", "steps": true}', {}, 422),
        (b'{"prompt": "a", "steps": 5e1}', {}, 422),
        (b'{"prompt": "a", "width": 48, "height": 47}', {}, 422),
    ],
)
def test_what_is_out_of_the_limits_is_refused_without_being_drawn(content, options, status):
    async def test(app, painter):
        asking = Asking(app, content, **options)
        await asking.task
        assert asking.status == status
        assert json.loads(asking.content)["detail"]
        assert not painter.begun.acquire(blocking=False)

    serving(test, Limits(body_seconds=0.2))


def test_a_server_that_stops_gives_up_what_it_draws():
    async def test(app, painter):
        asking = Asking(app, body(seed=5))
        await asyncio.to_thread(painter.begun.acquire)
        await asyncio.to_thread(app.state.worker.stop)
        await asking.task
        assert asking.status == 503
        assert not app.state.worker.alive
        health, late = Asking(app, b"", "/health", "GET"), Asking(app, body())
        await asyncio.gather(health.task, late.task)
        assert (health.status, late.status) == (503, 503)

    assert serving(test).dropped == [5]
