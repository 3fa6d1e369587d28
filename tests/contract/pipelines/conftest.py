"""Each tiny pipeline is built once; every test leaves it detached.

Foreseer is imported inside functions only: jaxtyping's checks must be in place before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
from torch import Tensor

from tests.support.pipelines import NAMES, TinyPipeline, build

STEPS = 8
# What another pipeline's denoiser runs too: the modules inside are tested once.
SAME_MODULES = re.compile("_(img2img|inpaint|fill|control|kontext|klein|lightning|edit|edit_plus|i2v)-modules")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the module site where it was tested with another pipeline, or another rule."""
    items[:] = [item for item in items if not _is_repeated(item.name)]


def _is_repeated(name: str) -> bool:
    return bool(SAME_MODULES.search(name)) or name.endswith(("-modules-uniform]", "-modules-explicit]"))


@cache
def built(name: str) -> TinyPipeline:
    """The pipeline, made at its first use."""
    return build(name)


@cache
def reference_of(name: str) -> Tensor:
    """The run with every step computed, never attached to."""
    return built(name).run(STEPS)


@pytest.fixture(params=NAMES)
def tiny(request: pytest.FixtureRequest) -> Iterator[TinyPipeline]:
    """One of the tiny pipelines."""
    from foreseer.attach.interception import is_hooked

    reference_of(request.param)
    found = built(request.param)
    yield found
    assert not any(is_hooked(module) for module in found.modules)


@pytest.fixture
def reference(tiny: TinyPipeline) -> Tensor:
    """Its unaccelerated run."""
    return reference_of(tiny.name)


@pytest.fixture(params=["output", "last_block", "modules"])
def site(request: pytest.FixtureRequest) -> str:
    """One of the sites."""
    return request.param
