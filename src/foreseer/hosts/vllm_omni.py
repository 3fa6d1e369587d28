"""vLLM-Omni: a cache backend for native pipelines, and hooks for its diffusers adapter.

Written against the source of vllm-omni 0.30.0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from foreseer.errors import ForeseerError
from foreseer.grid import Grid
from foreseer.hosts.choice import Choice
from foreseer.hosts.served import ServedRun

NAME = "foreseer"


class BackendError(ForeseerError, RuntimeError):
    """A pipeline cannot be served by the cache backend."""


def selecting(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``get_cache_backend`` so that it also accepts ``"foreseer"``."""

    @functools.wraps(original)
    def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
        return ForeseerBackend(cache_config) if cache_backend == NAME else original(cache_backend, cache_config)

    return get_cache_backend


def attach_to_adapter(adapter: Any, options: Mapping[str, Any]) -> None:
    """Accelerate the pipeline of every ``DiffusersAdapterPipeline`` after its weights are loaded.

    Raises:
        ForeseerError: the options are refused.
    """
    policy = Choice.from_options(options).standing_policy()
    load_weights = adapter.load_weights

    @functools.wraps(load_weights)
    def load_and_attach(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = load_weights(self, *args, **kwargs)
        if policy is not None:
            from foreseer.attach.accelerate import attach

            self._foreseer = attach(self._pipeline, policy, on_other_guidance="compute")
        return result

    adapter.load_weights = load_and_attach


class ForeseerBackend:
    """Implementation of vLLM-Omni's ``CacheBackend``.

    It is enabled once on a pipeline and refreshed at the start of each generation.

    Args:
        config: the ``--cache-config``: keys of :class:`foreseer.hosts.choice.Choice`.

    Raises:
        ForeseerError: an option is refused.

    Attributes:
        config: the argument ``config``.
        enabled: whether a pipeline is served.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.enabled = False
        self._choice = Choice.from_options(_options(config))
        self._choice.standing_policy()  # refuses gates, which ranks could answer differently
        self._run: ServedRun | None = None

    def enable(self, pipeline: Any) -> None:
        """Wrap the pipeline's ``predict_noise``.

        Raises:
            BackendError: the pipeline has no ``predict_noise``, or its layers are spread over ranks in stages.
        """
        parallel = getattr(getattr(pipeline, "od_config", None), "parallel_config", None)
        if getattr(parallel, "pipeline_parallel_size", 1) > 1:
            raise BackendError(
                "With pipeline parallelism the last rank alone has the network's output, and a forecast there would "
                "leave the other ranks waiting. Set the pipeline parallel size to 1."
            )
        predict_noise = getattr(pipeline, "predict_noise", None)
        if predict_noise is None:
            raise BackendError(f"{type(pipeline).__name__} has no predict_noise; use another cache backend.")

        @functools.wraps(predict_noise)
        def predict_or_forecast(*args: Any, **kwargs: Any) -> Any:
            return self._predict(pipeline, predict_noise, args, kwargs)

        pipeline.predict_noise = predict_or_forecast
        self.enabled = True

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Free the previous run before a new generation begins."""
        self._end()

    def is_enabled(self) -> bool:
        """Whether a pipeline is served."""
        return self.enabled

    def __repr__(self) -> str:
        return f"ForeseerBackend(config={self.config})"

    def _predict(self, pipeline: Any, predict_noise: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        scheduler = getattr(pipeline, "scheduler", None)
        step = _step(scheduler)
        if self._run is not None and step < self._run.step:
            self._end()  # a generation that began without refresh
        if self._run is None:
            self._run = ServedRun.begin(self._choice, lambda: Grid.from_scheduler(scheduler))
        inputs = (*args, *kwargs.values())
        return self._run.predict(step, kwargs.get("current_model"), inputs, lambda: predict_noise(*args, **kwargs))

    def _end(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.end()


def _step(scheduler: Any) -> int:
    """The step that the scheduler is at; before its first step, where it begins."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    return 0


def _options(config: Any) -> dict[str, Any]:
    """Our keys of the cache configuration: those that vLLM-Omni does not know itself."""
    if isinstance(config, Mapping):
        return dict(config)
    return dict(getattr(config, "_extra_params", None) or {})
