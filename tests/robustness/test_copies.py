"""What is saved, copied or pickled while attached: it is not attached, and runs its own weights."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import foreseer as fs
from foreseer.attach.interception import is_hooked
from tests.robustness.emoji import PANDA, draw, emoji
from tests.robustness.served import SITES
from tests.support.attaching import policy
from tests.support.pipelines import build


def check_free(pipe: Any) -> None:
    """Nothing of Foreseer stands before a call in ``pipe``."""
    for model in (value for value in pipe.components.values() if isinstance(value, torch.nn.Module)):
        for module in model.modules():
            assert not is_hooked(module)
            assert vars(module).get("_compiled_call_impl") is None
            assert "forward" not in vars(module)
            assert module.compile.__self__ is module


@pytest.mark.cell("hosts", "`save_pretrained` of an attached pipeline or model", "works")
@SITES
def test_saving(site: str, tmp_path: Path) -> None:
    pipe = emoji()
    plain = draw(pipe, PANDA)
    with fs.accelerate(pipe, policy(site)):
        forecast = draw(pipe, PANDA)
        pipe.save_pretrained(tmp_path)
        loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
        alone = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer")
        assert torch.equal(draw(pipe, PANDA), forecast)
    loaded.set_progress_bar_config(disable=True)
    check_free(loaded)
    assert (forecast - plain).abs().max() > 1e-2
    assert torch.allclose(draw(loaded, PANDA), plain, atol=1e-5)  # weights lie in memory otherwise: other kernels
    loaded.transformer = alone
    assert torch.allclose(draw(loaded, PANDA), plain, atol=1e-5)


@pytest.mark.cell("hosts", "deepcopy and pickle of an attached pipeline", "works")
@SITES
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_of_a_pipeline(how: str, site: str) -> None:
    pipe = emoji()
    plain = draw(pipe, PANDA)
    with fs.accelerate(pipe, policy(site)) as handle:
        expected = draw(pipe, PANDA)
        record = handle.record
        copied = copy.deepcopy(pipe) if how == "deepcopy" else pickle.loads(pickle.dumps(pipe))
        check_free(copied)
        assert torch.equal(draw(copied, PANDA), plain)
        with fs.accelerate(copied, policy(site)) as second:
            assert torch.equal(draw(copied, PANDA), expected)
        assert second.record.nfe == 3
        assert handle.record is record  # the copy's runs are not ours
        for parameter in copied.transformer.parameters():
            parameter.data.zero_()
        assert torch.equal(draw(pipe, PANDA), expected)
    assert torch.equal(draw(pipe, PANDA), plain)


@pytest.mark.cell("hosts", "deepcopy and pickle of an attached model: the copy is not attached", "works")
@SITES
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str, site: str) -> None:
    tiny = build("flux")
    plain, original = tiny.run(), tiny.pipe.transformer
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        expected = tiny.run()
        copied = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
        assert torch.equal(tiny.run(), expected)
        record = handle.record
        tiny.pipe.transformer = copied
        assert not is_hooked(copied)
        assert torch.equal(tiny.run(), plain)
        for parameter in original.parameters():
            parameter.data.zero_()
        assert torch.equal(tiny.run(), plain)
        with pytest.warns(fs.ForeseerWarning, match="transformer was replaced after attaching"):
            assert handle.record is record
        with fs.accelerate(tiny.pipe, policy(site)) as second:
            assert torch.equal(tiny.run(), expected)
        assert second.record.nfe == 4
        copied.compile(backend="eager")  # the copy's own
        assert copied._compiled_call_impl is not None
