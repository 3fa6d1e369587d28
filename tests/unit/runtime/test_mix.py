"""Channel mixing at run time against sums written out, and what leaves it out."""

import numpy as np
import pytest
import torch

from foreseer.plan.mixing import ChannelMixing
from foreseer.runtime import BranchRun
from tests.unit.plan.test_mixing import make_segment, plan_of

SHAPES = {-1: (2, 7, 5), 1: (2, 5, 3, 4), 2: (1, 3, 5, 2, 2)}


def features_of(shape, steps=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(steps)]


def forecasts_of(plan, features, computes=None):
    run = BranchRun(plan.of_branch(""), 0)
    found = {}
    for step in range(len(plan.grid)):
        if step in plan.computed_steps:
            run.computed(step, [features[step]] if computes is None else computes(features[step]))
        else:
            assert run.why_not(step) is None
            found[step] = run.forecast(step)[0]
    return run, found


def plan_with_mixing(axis):
    segments = (make_segment(0, steps=(1, 2), sources=(0,)), make_segment(1, steps=(8, 9), sources=(0, 3, 7)))
    return plan_of(mixing=ChannelMixing(axis, segments))


@pytest.mark.parametrize("axis", SHAPES)
def test_forecasts_are_rows_and_shares_of_the_mixed_features(axis):
    plan, features = plan_with_mixing(axis), features_of(SHAPES[axis])
    run, found = forecasts_of(plan, features)
    letters = {-1: "bnc,cd->bnd", 1: "bchw,cd->bdhw", 2: "bfchw,cd->bfdhw"}[axis]
    for step, forecast in found.items():
        expected = sum(plan.rows[step, j] * features[j].double() for j in plan.computed_steps if j < step)
        segment, share = plan.mixing.by_step.get(step, (None, 0.0))
        for source, matrix in zip(segment.sources, segment.matrices, strict=True) if segment else ():
            expected = expected + share * torch.einsum(
                letters, features[source].double(), torch.tensor(matrix).double()
            )
        assert torch.allclose(forecast.double(), expected, atol=1e-5)
    assert not run.store.steps
    assert run.note is None


def test_half_precision_is_mixed_to_its_rounding():
    plan, features = plan_with_mixing(-1), features_of(SHAPES[-1])
    _, exact = forecasts_of(plan, features)
    _, rounded = forecasts_of(plan, [feature.to(torch.bfloat16) for feature in features])
    for step, forecast in rounded.items():
        assert forecast.dtype == torch.bfloat16
        assert float((forecast.float() - exact[step]).norm() / exact[step].norm()) < 0.02


@pytest.mark.parametrize("shape", [(2, 7, 6), (5,), (2, 5, 7)])
def test_another_number_of_channels_leaves_the_rows_alone_and_says_so(shape):
    plan, features = plan_with_mixing(-1), features_of(shape)
    run, found = forecasts_of(plan, features)
    _, rows = forecasts_of(plan_of(), features)
    assert all(torch.equal(found[step], rows[step]) for step in rows)
    assert "5 channels" in run.note


def test_features_of_several_tensors_are_not_mixed():
    plan = plan_with_mixing(-1)
    run, _ = forecasts_of(plan, features_of(SHAPES[-1]), lambda feature: [feature, feature])
    assert "one tensor" in run.note


def test_a_preview_changes_nothing():
    plan, features = plan_with_mixing(-1), features_of(SHAPES[-1])
    run = BranchRun(plan.of_branch(""), 0)
    run.computed(0, [features[0]])
    first = run._preview(1)[0]
    assert torch.equal(first, run._preview(1)[0])
    assert torch.equal(first, run.forecast(1)[0])
    assert np.isfinite(first.numpy()).all()
