"""Entry points of server plugins: called in every worker, cheap, and inert unless selected."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from foreseer.errors import ForeseerError

SGLANG_OPTIONS = "FORESEER_SGLANG"
VLLM_OMNI_OPTIONS = "FORESEER_VLLM_OMNI"
VLLM_OMNI_RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"
VLLM_OMNI_ADAPTER = "vllm_omni.diffusion.models.diffusers_adapter.pipeline_diffusers_adapter"


class OptionsError(ForeseerError, ValueError):
    """The environment variable of a plugin does not hold a JSON object."""


def sglang() -> None:
    """Register hooks with SGLang-diffusion if the environment variable FORESEER_SGLANG is set.

    The variable holds options as a JSON object.

    Raises:
        ForeseerError: the options are refused.
    """
    options = _options(SGLANG_OPTIONS)
    if options is None:
        return
    from foreseer.hosts.sglang import register

    register(options)


def vllm_omni() -> None:
    """Register ``--cache-backend foreseer`` with vLLM-Omni.

    If FORESEER_VLLM_OMNI holds options (JSON), vLLM-Omni's diffusers adapter is served too.

    Raises:
        ForeseerError: the options are refused.
    """
    options = _options(VLLM_OMNI_OPTIONS)

    def patch_runner(module: ModuleType) -> None:
        from foreseer.hosts.vllm_omni import selecting

        module.get_cache_backend = selecting(module.get_cache_backend)  # type: ignore[attr-defined]

    def patch_adapter(module: ModuleType) -> None:
        from foreseer.hosts.vllm_omni import attach_to_adapter

        attach_to_adapter(module.DiffusersAdapterPipeline, options or {})

    when_imported(VLLM_OMNI_RUNNER, patch_runner)
    if options is not None:
        when_imported(VLLM_OMNI_ADAPTER, patch_adapter)


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call ``action`` with the module ``name``: now if it is imported, else as soon as it is."""
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


class _AfterImport(MetaPathFinder):
    """Finds one module as the other finders do, and acts after it was executed."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """The spec of the one module, with a loader that acts."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute, action = spec.loader.exec_module, self._action

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            action(module)

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def _options(variable: str) -> dict[str, Any] | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionsError(f'{variable} is not JSON ({error}); expected an object such as {{"speedup": 2}}.') from error
    if not isinstance(options, dict):
        raise OptionsError(f'{variable} is {text!r}; expected a JSON object such as {{"speedup": 2}}.')
    return options
