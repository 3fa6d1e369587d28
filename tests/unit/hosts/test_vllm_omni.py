"""vLLM-Omni's cache backend and adapter on stand-ins with the signatures read in vllm-omni 0.30.0."""

from __future__ import annotations

import ast
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from foreseer.hosts.choice import Choice, ChoiceError
from foreseer.hosts.vllm_omni import BackendError, ForeseerBackend, attach_to_adapter, selecting
from tests.unit.hosts.signatures import arguments, definition, fields, source_of

STEPS = 10
SOURCE = source_of("vllm_omni", "VLLM_OMNI_SOURCE")


class Pipeline:
    """A native pipeline's loop: ``predict_noise`` once per branch, then the scheduler's step."""

    def __init__(self, parts: int = 1, stages: int = 1) -> None:
        self.scheduler, self.calls, self.parts = FlowMatchEulerDiscreteScheduler(), 0, parts
        self.od_config = SimpleNamespace(parallel_config=SimpleNamespace(pipeline_parallel_size=stages))

    def predict_noise(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        output = torch.sin(kwargs["hidden_states"] + float(kwargs["timestep"]) / 300 + kwargs["prompt"])
        return output if self.parts == 1 else tuple(output * (1 + part) for part in range(self.parts))

    def generate(self, steps: int = STEPS, seed: int = 0, stop: int | None = None) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(seed))
        for step, t in enumerate(self.scheduler.timesteps):
            if step == stop:
                raise InterruptedError
            outputs = [self.predict_noise(hidden_states=x, timestep=t, prompt=prompt) for prompt in (1.0, 0.0)]
            outputs = [output if self.parts == 1 else sum(output) for output in outputs]
            x = self.scheduler.step(outputs[1] + 2.0 * (outputs[0] - outputs[1]), t, x, return_dict=False)[0]
        return x


class CacheConfig:
    """Unknown keys of ``--cache-config`` are kept apart."""

    def __init__(self, **extra: Any) -> None:
        self._extra_params = extra


def served(pipeline: Pipeline, **options: Any) -> ForeseerBackend:
    """As the runner sets a backend up."""
    backend = selecting(lambda name, config: None)("foreseer", CacheConfig(**options))
    backend.enable(pipeline)
    assert backend.is_enabled()
    return backend


def test_the_backend_is_chosen_by_its_name_only() -> None:
    select = selecting(lambda name, config: (name, config))
    assert select("tea_cache", 3) == ("tea_cache", 3)
    assert select(None, None) == (None, None)
    assert isinstance(select("foreseer", {"speedup": 2}), ForeseerBackend)


@pytest.mark.parametrize("parts", [1, 2])
def test_half_of_the_calls_are_computed(parts: int) -> None:
    """A network may return several tensors (video and audio)."""
    plain, pipeline = Pipeline(parts), Pipeline(parts)
    backend = served(pipeline, speedup=2)
    backend.refresh(pipeline, STEPS)
    expected, found = plain.generate(), pipeline.generate()
    assert (plain.calls, pipeline.calls) == (2 * STEPS, STEPS)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1


def test_if_every_step_computes_the_result_is_the_same_to_the_bit() -> None:
    pipeline = Pipeline()
    served(pipeline, speedup=1)
    assert torch.equal(pipeline.generate(), Pipeline().generate())


@pytest.mark.parametrize("refreshed", [True, False])
def test_generations_follow_each_other_as_if_alone_also_after_an_abort(refreshed: bool) -> None:
    pipeline = Pipeline()
    backend = served(pipeline, speedup=2)
    with pytest.raises(InterruptedError):
        pipeline.generate(seed=9, stop=5)
    for seed, steps in ((1, 10), (2, 17), (1, 10)):
        if refreshed:
            backend.refresh(pipeline, steps)
        alone = Pipeline()
        served(alone, speedup=2)
        assert torch.equal(pipeline.generate(steps, seed), alone.generate(steps, seed))


def test_the_end_of_a_generation_reports_steps_that_failed_open(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline()
    backend = served(pipeline, speedup=2)
    predict, written = pipeline.predict_noise, []

    def write_to_output(**kwargs: Any) -> Tensor:
        written.append(predict(**kwargs).mul_(1.0))
        return written[-1].clone()

    pipeline.predict_noise = write_to_output
    with caplog.at_level(logging.INFO, "foreseer"):
        pipeline.generate()
        backend.refresh(pipeline, STEPS)
    assert pipeline.calls == 2 * STEPS
    assert f"{STEPS} of {STEPS} steps computed" in caplog.text
    assert "calls failed open, the first at step 4: the feature of step 2 was changed in place" in caplog.text


def test_a_scheduler_without_a_grid_computes_every_step() -> None:
    pipeline = Pipeline()
    served(pipeline, speedup=2)
    scheduler = pipeline.scheduler
    pipeline.scheduler = SimpleNamespace(
        set_timesteps=scheduler.set_timesteps, step=scheduler.step, timesteps=torch.tensor([900.0, 900.0, 300.0])
    )
    for t in (900.0, 900.0, 300.0):
        pipeline.predict_noise(hidden_states=torch.ones(2), timestep=t, prompt=0.0)
    assert pipeline.calls == 3


def test_what_cannot_be_served_is_refused_at_start() -> None:
    with pytest.raises(BackendError, match="pipeline parallel size to 1"):
        served(Pipeline(stages=2), speedup=2)
    with pytest.raises(BackendError, match="no predict_noise"):
        ForeseerBackend({"speedup": 2}).enable(SimpleNamespace())
    for options in ({"speedups": 2}, {"method": "forecast-error"}):
        with pytest.raises(ChoiceError):
            ForeseerBackend(options)


def test_the_adapter_is_attached_after_its_weights_are_loaded() -> None:
    from tests.support.pipelines import build

    tiny = build("flux")

    class Adapter:
        def load_weights(self) -> None:
            self._pipeline = tiny.pipe

    attach_to_adapter(Adapter, {"speedup": 2})
    adapter, calls = Adapter(), []
    adapter.load_weights()
    hook = tiny.pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    for steps in (8, 12):
        tiny.run(steps)
    hook.remove()
    adapter._foreseer.detach()
    assert len(calls) == 4 + 6


@pytest.mark.skipif(SOURCE is None, reason="VLLM_OMNI_SOURCE names no unpacked wheel, and vllm_omni is not installed")
def test_the_signatures_are_the_packages() -> None:
    base = "diffusion/cache/base.py"
    for name in ("__init__", "enable", "refresh", "is_enabled"):
        ours = [*inspect.signature(getattr(ForeseerBackend, name)).parameters]
        assert ours == arguments(definition(SOURCE, base, f"CacheBackend.{name}"))
    selector = arguments(definition(SOURCE, "diffusion/cache/selector.py", "get_cache_backend"))
    assert selector == ["cache_backend", "cache_config"]
    runner = (SOURCE / "diffusion/worker/diffusion_model_runner.py").read_text()
    assert "get_cache_backend(self.od_config.cache_backend, self.od_config.cache_config)" in runner
    config = fields(definition(SOURCE, "diffusion/data.py", "DiffusionCacheConfig"))
    ours = [entry.name for entry in Choice.__dataclass_fields__.values() if entry.init]
    assert set(config) & set(ours) == set()  # so that all of them arrive in _extra_params
    assert "_extra_params" in config
    predict = arguments(definition(SOURCE, "diffusion/distributed/cfg_parallel.py", "CFGParallelMixin.predict_noise"))
    assert predict == ["self", "*args", "**kwargs"]
    adapter = "diffusion/models/diffusers_adapter/pipeline_diffusers_adapter.py"
    assert arguments(definition(SOURCE, adapter, "DiffusersAdapterPipeline.load_weights")) == ["self"]
    parallel = definition(SOURCE, "diffusion/data.py", "DiffusionParallelConfig")
    assert "pipeline_parallel_size" in fields(parallel)
    assert isinstance(parallel, ast.ClassDef)
