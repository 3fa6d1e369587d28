"""The Ray Serve example: the deployment in this process, and over HTTP."""

import os
import sys
import urllib.error
import urllib.request

import pytest

serve = pytest.importorskip("ray.serve")

from examples.ray_serve.app import AUTOSCALING, Pictures, app  # noqa: E402
from examples.serve.asked import Limits, asked_within  # noqa: E402
from examples.serve.draw import emoji  # noqa: E402

pytestmark = pytest.mark.slow


def test_each_request_has_its_quality_and_the_picture_of_a_serial_run():
    handle = serve.run(app, _local_testing_mode=True)
    painter, asked = emoji(), asked_within(Limits())
    for quality, speedup, nfe in (("draft", 8.0, 2), ("high", 3.0, 5), ("reference", 1.0, 16)):
        drawn = handle.draw.remote({"prompt": "a rocket", "quality": quality, "seed": 3, "steps": 16}).result()
        assert drawn == painter.draw(asked(prompt="a rocket", seed=3, steps=16, speedup=speedup))
        assert drawn.nfe == nfe
    for wrong in ({"quality": "best"}, {"steps": 65}, {"guidance": 3}, {"prompt": ""}):
        with pytest.raises(Exception, match="validation error"):
            handle.draw.remote({"prompt": "a rocket", **wrong}).result()


def test_replicas_follow_the_load():
    config = Pictures._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas) == (AUTOSCALING["min_replicas"], AUTOSCALING["max_replicas"])


@pytest.mark.slow
def test_it_answers_over_http(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"port": 8127})
        serve.run(app)
        base = "http://127.0.0.1:8127/?prompt=a+rocket&steps=10"
        with urllib.request.urlopen(f"{base}&quality=standard", timeout=300) as answer:
            assert answer.headers["X-Foreseer-NFE"] == "2"
            assert answer.read()[:4] == b"\x89PNG"
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(f"{base}&quality=best", timeout=60)
    finally:
        serve.shutdown()
        ray.shutdown()
