"""The store keeps computed features, detects corruption, and holds no more than it reports."""

import pytest
import torch

from foreseer.runtime import FeatureStore

KEEPS = pytest.mark.parametrize("keep", ["device", "host"])


@KEEPS
def test_features_come_back_by_step_and_number(keep):
    store = FeatureStore(keep)
    store.put(3, [torch.full((2, 3), 3.0), torch.full((4,), 0.5)])
    store.put(7, [torch.full((2, 3), 7.0)])
    assert (len(store), len(store.get(3)), len(store.get(7))) == (2, 2, 1)
    assert store.get(3)[1].tolist() == [0.5] * 4
    assert store.get(7)[0].tolist() == [[7.0] * 3] * 2
    assert store.bytes == 4 * (6 + 4 + 6)
    assert [store.why_unusable(step) is None for step in (3, 5, 7)] == [True, False, True]
    assert "step 5 is missing" in store.why_unusable(5)
    store.drop((3, 9))
    assert (len(store), store.bytes) == (1, 24)
    assert "missing" in store.why_unusable(3)
    store.clear()
    assert (len(store), store.bytes) == (0, 0)


@KEEPS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_features_that_are_not_finite_are_named(keep, bad, dtype):
    spoilt = torch.zeros(100, dtype=dtype)
    spoilt[57] = bad
    store = FeatureStore(keep)
    store.put(2, [torch.zeros(3), spoilt])
    store.put(4, [torch.zeros(3)])
    for _ in range(2):  # asked again, the answer is the same
        assert "step 2 is not finite" in store.why_unusable(2)
        assert store.why_unusable(4) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1.0),
        lambda t: t.view(-1).mul_(2.0),
        lambda t: t[0].zero_(),
        lambda t: t.__setitem__((0, 0), 9.0),
    ],
    ids=["itself", "view", "slice", "item"],
)
def test_a_change_in_place_is_noticed(change):
    kept, untouched = torch.ones(3, 4), torch.ones(3, 4)
    store = FeatureStore()
    store.put(0, [untouched, kept])
    store.put(1, [untouched])
    assert store.why_unusable(0) is None
    change(kept)
    assert "step 0 was changed in place" in store.why_unusable(0)
    assert store.why_unusable(1) is None


@KEEPS
def test_views_are_copied_so_that_nothing_larger_stays_alive(keep):
    large = torch.arange(1000.0)
    store = FeatureStore(keep)
    store.put(0, [large[10:20]])
    kept = store.get(0)[0]
    assert kept.untyped_storage().nbytes() == kept.nbytes == store.bytes == 40
    large.zero_()
    assert store.why_unusable(0) is None
    assert store.get(0)[0].tolist() == list(range(10, 20))


def test_a_feature_of_its_own_is_held_without_a_copy_on_the_device_and_copied_to_the_host():
    feature = torch.ones(5)
    device, host = FeatureStore("device"), FeatureStore("host")
    device.put(0, [feature])
    host.put(0, [feature])
    assert device.get(0)[0].data_ptr() == feature.data_ptr()
    assert host.get(0)[0].data_ptr() != feature.data_ptr()
    feature.zero_()
    assert "changed in place" in device.why_unusable(0)
    assert host.why_unusable(0) is None
    assert host.get(0)[0].tolist() == [1.0] * 5


@KEEPS
def test_inference_tensors_are_copied_since_they_do_not_tell_of_changes(keep):
    store = FeatureStore(keep)
    with torch.inference_mode():
        feature = torch.ones(5)
        assert feature.is_inference()
        store.put(0, [feature])
        feature.zero_()
        assert store.why_unusable(0) is None
        assert store.get(0)[0].tolist() == [1.0] * 5
    assert store.get(0)[0].tolist() == [1.0] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_element_counts_for_whether_a_feature_is_finite(dtype):
    largest = torch.finfo(dtype).max
    sound = torch.tensor([[-largest, 0.0], [largest, 1.0]], dtype=dtype)
    for place in range(4):
        for bad in (float("nan"), float("inf"), -float("inf")):
            store, feature = FeatureStore(), sound.clone()
            feature.view(-1)[place] = bad
            store.put(0, [sound.clone(), feature])
            assert store.why_unusable(0) == "the feature of step 0 is not finite"
    store = FeatureStore()
    store.put(0, [sound, torch.empty(0, dtype=dtype)])
    assert store.why_unusable(0) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", [0, 2**18, 2**19])
def test_one_bad_element_of_a_large_feature_is_found(dtype, place):
    feature = torch.full((2**19 + 1,), 60000.0, dtype=dtype)
    store = FeatureStore()
    store.put(0, [feature.clone()])
    assert store.why_unusable(0) is None
    for step, bad in enumerate((float("nan"), float("inf"), -float("inf")), start=1):
        feature[place] = bad
        store.put(step, [feature.clone()])
        assert store.why_unusable(step) == f"the feature of step {step} is not finite"
