"""The two wrappers on a clone of a model.

The state of a run is stored only in that run's options.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.run_report import RunReport, describe
from foreseer.hosts.comfyui.sampler_run import SamplingRun

KEY = "foreseer"
SAMPLER_SAMPLE = "sampler_sample"  # comfy.patcher_extension.WrappersMP
PREDICT_NOISE = "predict_noise"
KEPT_REPORTS = 16

log = logging.getLogger("foreseer")


class ModelPatch:
    """Wrappers of one patched model, which may serve several runs at once.

    Args:
        choice: method and budget.
        show: called with a summary when a run has ended.

    Attributes:
        reports: reports of the last runs, the newest at the end.
    """

    def __init__(self, choice: Choice, show: Callable[[str], None] | None = None) -> None:
        self.choice = choice
        self.reports: deque[RunReport] = deque(maxlen=KEPT_REPORTS)
        self._show = show

    def sampler_sample(
        self, executor: Any, guider: Any, sigmas: Any, extra_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """SAMPLER_SAMPLE: begin a run, sample, free the run whatever happens."""
        model_options = extra_args["model_options"]
        options = model_options.setdefault("transformer_options", {})
        _warn_of_other_caches(model_options)
        run = SamplingRun(
            self.choice,
            [float(sigma) for sigma in sigmas.tolist()],
            getattr(guider, "conds", None) or {},
            _post_cfg_functions(model_options),
            _network_input(guider),
        )
        options[KEY] = run
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            options.pop(KEY, None)
            run.end()
            self.reports.append(run.report)
            text = describe(run.report)
            log.info("Foreseer: %s", text.replace("\n", "; "))
            if self._show is not None:
                self._show(text)

    def predict_noise(
        self, executor: Any, x: Any, timestep: Any, model_options: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """PREDICT_NOISE: the guided denoised sample, computed or forecast."""
        model_options = {} if model_options is None else model_options
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is None:
            return executor(x, timestep, model_options, *args, **kwargs)
        return run.denoised(
            x,
            timestep,
            lambda: executor(x, timestep, model_options, *args, **kwargs),
            _post_cfg_functions(model_options),
        )

    def put_on(self, model: Any) -> Any:
        """A clone of ``model`` with these wrappers, in place of those of an earlier Foreseer node."""
        return with_wrappers(model, self.sampler_sample, self.predict_noise)


def _network_input(guider: Any) -> Callable[[Any, Any], Any] | None:
    """The model's conversion of a sample to the network's input; ``None`` without a model."""
    get = getattr(getattr(guider, "model_patcher", None), "get_model_object", None)
    try:
        return getattr(get("model_sampling"), "calculate_input", None) if callable(get) else None
    except AttributeError:
        return None


def with_wrappers(model: Any, sampler_sample: Callable[..., Any], predict_noise: Callable[..., Any]) -> Any:
    """A clone of ``model`` with two wrappers, in place of those of an earlier Foreseer node."""
    clone = take_off(model)
    clone.add_wrapper_with_key(SAMPLER_SAMPLE, KEY, sampler_sample)
    clone.add_wrapper_with_key(PREDICT_NOISE, KEY, predict_noise)
    return clone


def take_off(model: Any) -> Any:
    """A clone of ``model`` without Foreseer's wrappers."""
    clone = model.clone()
    for kind in (SAMPLER_SAMPLE, PREDICT_NOISE):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def patch_of(model: Any) -> ModelPatch | None:
    """The patch that a Foreseer node put on ``model``."""
    for wrapper in model.get_wrappers(SAMPLER_SAMPLE, KEY):
        owner = getattr(wrapper, "__self__", None)
        if isinstance(owner, ModelPatch):
            return owner
    return None


def show_on_node(text: str, node_id: Any) -> None:
    """Show ``text`` on the node, if a server runs."""
    try:
        from server import PromptServer

        server = PromptServer.instance
    except (ImportError, AttributeError):
        return
    if node_id is not None:
        server.send_progress_text(text, node_id)


def _post_cfg_functions(model_options: Mapping[str, Any]) -> int:
    return len(model_options.get("sampler_post_cfg_function") or ())


def _warn_of_other_caches(model_options: Mapping[str, Any]) -> None:
    """Two caches on one model skip each other's steps, and neither's errors are what it expects."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    keys = {str(key) for by_key in wrappers.values() for key in by_key}
    function = model_options.get("model_function_wrapper")
    if function is not None:
        keys.add(f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}")
    caches = sorted(key for key in keys if "cache" in key.lower())
    if caches:
        log.warning("Foreseer and another cache (%s) are on the same model: remove one of the two.", ", ".join(caches))
