"""Half precision, infinities, rows of large gain, and the same bits in another process."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.plan.explain import MUCH_ROUNDING, worst_rounding
from tests.robustness.cells import ROOT
from tests.support.attaching import TinyDenoiser, denoiser, flow_scheduler, policy, sample
from tests.support.pipelines import build, randomise

STEEP = fs.Policy(fs.schedule.Uniform.for_nfe(7, 50), fs.forecast.Newton(order=5))


@pytest.mark.cell(
    "numerics",
    "float16 and bfloat16: forecasts close to float32's",
    "works",
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    class Cast(TinyDenoiser):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            hidden = self.embed(x.to(dtype)) + (timestep.float().reshape(-1, 1, 1) / 1000).to(dtype)
            return self.head(torch.tanh(self.blocks[0](hidden)))

    model, scheduler = randomise(Cast(), 5).to(dtype), flow_scheduler()
    with torch.no_grad():
        expected = sample(model, scheduler)
        with fs.accelerate(model, policy(rule=fs.schedule.Uniform(1)), scheduler=scheduler):
            assert torch.equal(sample(model, scheduler), expected)
        with fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            found = sample(model, scheduler)
    assert handle.record.failed_open == []
    assert (found.float() - expected.float()).abs().max() < 0.3 * expected.float().abs().max()


@pytest.mark.cell("numerics", "infinity in a feature: one warning with the step", "fails open")
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinity(value: float) -> None:
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.index_fill(1, torch.tensor([0]), value) if scheduler.step_index == 2 else output

    model.register_forward_hook(spoil)
    with (
        torch.no_grad(),
        fs.accelerate(model, policy(), scheduler=scheduler) as handle,
        pytest.warns(fs.ForeseerWarning, match="feature of step 2 is not finite") as said,
    ):
        sample(model, scheduler)
    assert len(said) == 1
    assert handle.record.forecast == {"call 1": [1]}


@pytest.mark.cell("numerics", "rows with a large gain: flagged by `plan.explain(dtype=...)`", "works")
def test_large_gain_is_flagged() -> None:
    plan = STEEP.compile(fs.Grid.uniform(50))
    explained = plan.explain(dtype="bfloat16")
    step, error = worst_rounding(plan, "bfloat16")
    assert step in {one.step for one in explained.flagged}
    assert error == max(one.rounding for one in explained.forecasts) > MUCH_ROUNDING
    assert f"(step {step}, gain" in str(explained)
    assert plan.explain(dtype="float32").flagged == ()
    assert "LARGE GAIN" not in str(plan.explain(dtype="float32"))
    generator = torch.Generator().manual_seed(0)  # the promise, against rounding itself
    features = torch.randn(50, 20000, generator=generator, dtype=torch.float64)
    row = torch.as_tensor(plan.rows[step].copy())
    rounded = row @ features.to(torch.bfloat16).double() - row @ features
    assert 0.3 * error < float(rounded.std()) < error


@pytest.mark.cell("numerics", "rows with a large gain on half-precision features: one warning", "works")
def test_large_gain_is_said() -> None:
    class Cast(TinyDenoiser):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(x.float(), timestep).bfloat16()

    scheduler = flow_scheduler()
    with torch.no_grad():
        with fs.accelerate(denoiser(), STEEP, scheduler=scheduler):
            sample(denoiser(), scheduler, steps=50)
        model = randomise(Cast(), 5)
        with (
            fs.accelerate(model, STEEP, scheduler=scheduler) as handle,
            pytest.warns(fs.ForeseerWarning, match=r"rounding of bfloat16 features alone .* Said once") as said,
        ):
            sample(model, scheduler, steps=50)
            sample(model, scheduler, steps=50)
    assert len(said) == 1
    assert handle.record.failed_open == []


def digest() -> str:
    """Outputs of a new accelerated run of the tiny denoiser."""
    torch.manual_seed(0)  # of the biases
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler):
        return hashlib.sha256(sample(model, scheduler).numpy().tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.cell("numerics", "the same run in another process: equal to the last bit", "works")
def test_another_process_gives_the_same_bits() -> None:
    program = (
        "import torch; torch.set_num_threads(1); from tests.robustness.test_numerics import digest; print(digest())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


@pytest.mark.cell("numerics", "NaN in the first run: the next run is served", "works")
@pytest.mark.parametrize("begins", [0, 1, 2, 3, 5])  # also in the middle of a site's proof
@pytest.mark.parametrize("site", ["last_block", "modules", "change", "tokens"])
def test_a_spoiled_first_run_condemns_no_site(site: str, begins: int) -> None:
    flux, calls = build("flux"), itertools.count()
    with fs.accelerate(flux.pipe, policy(site)):
        expected = flux.run()

    def spoil(module: nn.Module, given: Any, output: Any) -> Any:
        return tuple(torch.full_like(one, torch.nan) for one in output) if next(calls) >= begins else None

    hook = flux.pipe.transformer.transformer_blocks[0].register_forward_hook(spoil)
    with fs.accelerate(flux.pipe, policy(site)) as handle:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.ForeseerWarning)
            flux.run(seed=99)
        assert handle.record.failed_open
        hook.remove()
        assert torch.equal(flux.run(), expected)
        assert handle.record.failed_open == []


@pytest.mark.cell("numerics", "dropout: computed until it is switched off", "fails open")
@pytest.mark.parametrize("site", ["last_block", "modules", "change", "tokens"])
def test_dropout(site: str) -> None:
    flux = build("flux")
    with fs.accelerate(flux.pipe, policy(site)):
        expected = flux.run()
    model = flux.pipe.transformer
    model.proj_out = nn.Sequential(nn.Dropout(0.5), model.proj_out).train()
    with fs.accelerate(flux.pipe, policy(site)) as handle:
        with pytest.warns(fs.ForeseerWarning, match="called twice with the same input, the network returns different"):
            flux.run(seed=99)
        assert handle.record.forecast == {}
        calls: list[object] = []
        hook = model.norm_out.register_forward_pre_hook(lambda *given: calls.append(given))
        flux.run(seed=99)
        hook.remove()
        assert len(calls) == 8  # it is not tried again at every run
        model.eval()
        assert torch.equal(flux.run(), expected)
        assert handle.record.failed_open == []
