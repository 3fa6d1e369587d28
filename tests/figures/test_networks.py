"""Quantised and noisy networks of the benchmarks are what they claim to be."""

import copy

import pytest
import torch
from benchmarks.networks import RecordedInputs, int8, noisy, rounded
from torch import nn


class Denoiser(nn.Module):
    """A network with a head, called by keyword."""

    def __init__(self):
        super().__init__()
        self.body, self.proj_out = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, sample):
        """The output in a tuple."""
        return (self.proj_out(nn.functional.gelu(self.body(sample))),)


def recorded(network):
    """Inputs that move along a line, 40 steps."""
    first, last = torch.randn(2, 16, 64)
    samples = [first + step / 40 * (last - first) for step in range(40)]
    return RecordedInputs(network, lambda: [network(sample=sample) for sample in samples])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Denoiser()


def test_noise_is_measured_as_it_was_added(network):
    every, fresh = recorded(network).noise_of(noisy(network, 0.01))
    assert every == pytest.approx(0.01, rel=0.1)
    assert fresh == pytest.approx(0.01, rel=0.1)


def test_an_error_that_moves_with_the_output_is_not_fresh(network):
    scaled = copy.deepcopy(network)
    scaled.proj_out.weight.data *= 1.01
    scaled.proj_out.bias.data *= 1.01
    every, fresh = recorded(network).noise_of(scaled)
    assert every == pytest.approx(0.01, rel=1e-3)
    assert fresh < 0.05 * every


def test_int8_errs_as_torchao_does(network):
    quantization = pytest.importorskip("torchao.quantization")
    theirs = copy.deepcopy(network)
    quantization.quantize_(theirs, quantization.Int8DynamicActivationInt8WeightConfig())
    inputs = recorded(network)
    ours = inputs.noise_of(rounded(network, int8))
    assert inputs.noise_of(theirs) == pytest.approx(ours, rel=0.1)
