"""The weighted sum equals the float64 one up to rounding to float32 and to the features' dtype."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreseer.runtime import weighted_sum

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def exact_sum(features, weights):
    """The float64 sum, and the sum of magnitudes that rounding errors scale with."""
    terms = [feature.double() * weight for feature, weight in zip(features, weights, strict=True)]
    return sum(terms), sum(term.abs() for term in terms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(count=st.integers(1, 16), scale=st.sampled_from([1.0, 30.0]), seed=st.integers(0, 2**31))
def test_sums_accumulate_wide_and_round_once(dtype, count, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(64, generator=generator).to(dtype) for _ in range(count)]
    weights = [(scale * torch.randn((), generator=generator, dtype=torch.float64)).item() for _ in range(count)]
    given_before = [feature.clone() for feature in features]
    result = weighted_sum(features, weights)
    exact, magnitude = exact_sum(features, weights)
    wide = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    bound = (count + 2) * wide * magnitude
    if dtype in (torch.float16, torch.bfloat16):
        info = torch.finfo(dtype)
        bound = bound + info.eps / 2 * exact.abs() * (1 + info.eps) + info.smallest_normal * info.eps
    assert result.dtype == dtype
    assert torch.all((result.double() - exact).abs() <= bound)
    assert all(torch.equal(feature, before) for feature, before in zip(features, given_before, strict=True))


def test_half_precision_sums_neither_overflow_nor_cancel_on_the_way():
    large = torch.full((4,), 60000.0, dtype=torch.float16)
    assert weighted_sum([large, large], [3.0, -2.0]).tolist() == [60000.0] * 4
    one, next_to_one = torch.tensor([1.0]).bfloat16(), torch.tensor([1.0078125]).bfloat16()
    assert weighted_sum([one, next_to_one], [-255.0, 255.0]).item() == pytest.approx(255 * 0.0078125, rel=2**-8)


@pytest.mark.parametrize("size", [4, 2**19 + 1])
def test_what_leaves_float16s_range_stays_finite(size):
    large = torch.full((size,), 60000.0, dtype=torch.float16)
    result = weighted_sum([large, -large], [2.0, -1.0])
    assert torch.all(result == torch.finfo(torch.float16).max)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_features_keep_both_parts(dtype):
    feature = torch.tensor([1.0 + 2.0j]).to(dtype)
    result = weighted_sum([feature, feature], [3.0, -1.0])
    assert result.dtype == dtype
    assert result.tolist() == [2.0 + 4.0j]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_result_is_new_and_of_the_same_shape_whatever_the_layout(dtype):
    feature = torch.randn(3, 4, 5).to(dtype).transpose(0, 2)
    result = weighted_sum([feature], [1.0])
    assert torch.equal(result, feature)
    assert result.data_ptr() != feature.data_ptr()
    result.zero_()
    assert feature.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [2**19, 2**19 + 1, 2**20 + 7])
def test_large_features_give_the_same_bits_as_small_ones(dtype, size):
    features = [torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(3)]
    weights = [1.7, -2.3, 0.61]
    parts = zip(*(feature.split(1000) for feature in features), strict=True)
    small = torch.cat([weighted_sum(part, weights) for part in parts])
    assert torch.equal(weighted_sum(features, weights), small)
    scattered = [torch.stack([feature, feature], dim=1)[:, 0] for feature in features]
    assert not scattered[0].is_contiguous()
    assert torch.equal(weighted_sum(scattered, weights), small)
    with pytest.raises(ValueError, match="zip"):
        weighted_sum(features, weights[:2])


def test_a_weight_too_few_is_refused():
    with pytest.raises(ValueError, match="zip"):
        weighted_sum([torch.ones(2), torch.ones(2)], [1.0])
