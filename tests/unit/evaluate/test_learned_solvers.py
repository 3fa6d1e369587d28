"""Tableaus on a pipeline step as their solvers do, and training improves them."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from foreseer.evaluate.entries.base import PlainEntry
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.bns import BNS
from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts, CalibrationRuns, decibels
from foreseer.evaluate.peers.dpm_solver_v3 import dpm_solver_v3_candidates
from foreseer.evaluate.peers.dyweight import DyWeight
from foreseer.evaluate.peers.gits import gits_candidates, local_errors, unipc_tableau
from foreseer.evaluate.peers.ipndm import ipndm_tableau
from foreseer.evaluate.peers.model_statistics import measure_statistics
from foreseer.evaluate.peers.solver_training import SolverTraining, loss_gradient
from foreseer.evaluate.peers.solvers import SolverSwap
from foreseer.evaluate.peers.tableau import Tableau
from foreseer.evaluate.peers.tableau_peers import own_tableau
from foreseer.evaluate.peers.tableau_scheduler import Coefficients, TableauSampler
from tests.support.loop_pipeline import LoopPipeline

STEPS, NFE = 20, 5
DDIM = {"clip_sample": False, "timestep_spacing": "trailing"}
OWN = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0),
    "ddim": lambda: diffusers.DDIMScheduler(**DDIM),
    "ddim-v": lambda: diffusers.DDIMScheduler(**DDIM, prediction_type="v_prediction"),
    "euler": lambda: diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"),
}


def runs_of(scheduler="flow", prompts=4, steps=STEPS, **more):
    calibration = CalibrationPrompts([f"prompt {index}" for index in range(prompts)], batch=1, **more)
    return CalibrationRuns(LoopPipeline(OWN[scheduler]()), steps, calibration, {}, "a prompt")


def sampler(tableau):
    return TableauSampler("solver", "Solver", tableau.steps, tableau.steps, tableau=tableau)


@pytest.fixture(scope="module")
def runs():
    return runs_of()


@pytest.mark.parametrize("scheduler", OWN)
def test_the_pipelines_own_solver_as_a_tableau_draws_the_same(scheduler):
    runs = runs_of(scheduler)
    tableau = own_tableau(runs, NFE)
    expected = runs.run([0], NFE, None)
    assert float(decibels(runs.run([0], NFE, sampler(tableau)), expected)) > (100 if scheduler != "euler" else 12)


def test_unipc_as_a_tableau_draws_what_diffusers_draws(runs):
    tableau = unipc_tableau(runs.pipe.scheduler, runs.path(NFE))
    expected = runs.run([0], NFE, SolverSwap("unipc", "UniPC", NFE, solver="unipc"))
    assert float(decibels(runs.run([0], NFE, sampler(tableau)), expected)) > 90


@pytest.mark.parametrize("scheduler", ["flow", "ddim", "ddim-v"])
def test_the_reference_trajectory_ends_at_the_reference_sample(scheduler):
    runs = runs_of(scheduler)
    for index, (samples, outputs) in enumerate(runs.trajectories):
        assert samples.shape == (STEPS + 1, outputs.shape[1])
        assert float(decibels(samples[-1:], runs.targets[[index]].flatten(1))) > 90
    assert len(runs.trajectories) == len(runs.prompts.fitted) == 3


@pytest.mark.parametrize("scheduler", ["flow", "ddim", "ddim-v"])
def test_levels_by_dynamic_programming_beat_even_ones(scheduler):
    runs = runs_of(scheduler)
    own = runs.fidelity(sampler(own_tableau(runs, NFE)))
    best = runs.choose(gits_candidates(runs, NFE, unipc=False), "euler-gits", "Euler", NFE)
    assert runs.fidelity(best) > own + 0.5
    assert best.settings["steps"][0] == 0
    assert np.isfinite(local_errors(runs)[0, 1:]).all()
    assert local_errors(runs)[3, 4] < 1e-3  # a step of the reference itself


@pytest.mark.parametrize("scheduler", ["flow", "ddim"])
def test_dpm_solver_v3_beats_the_first_order(scheduler):
    runs = runs_of(scheduler, prompts=12)
    candidates = dpm_solver_v3_candidates(runs, NFE)
    best = runs.choose(candidates, "dpm-solver-v3", "DPM-Solver-v3", NFE)
    assert runs.fidelity(best) > runs.fidelity(sampler(own_tableau(runs, NFE))) + 1
    assert runs.fidelity(best) == max(map(runs.fidelity, map(sampler, candidates)))


class Linear(nn.Module):
    """Velocity that is a known multiple of each element of the sample."""

    def forward(self, hidden_states, timestep, words, return_dict=False):
        """Tuple of one tensor."""
        return (hidden_states * torch.linspace(-1, 1, hidden_states.shape[-1]) + words,)


def test_measured_derivatives_are_those_of_the_network(runs):
    runs = runs_of()
    runs.pipe.transformer = Linear()
    element, channel = measure_statistics(runs)
    expected = np.linspace(-1, 1, element.linear.shape[-1])
    assert np.allclose(element.linear, expected, atol=1e-3)
    assert np.allclose(channel.linear, expected, atol=1e-3)
    assert channel.pooled


def test_bns_begins_as_the_solver_it_is_given(runs):
    path = runs.path(6)
    midpoint = midpoint_tableau(path)
    for tableau in (ipndm_tableau(path, 1), midpoint):
        begun = BNS(tableau)
        made = begun.coefficients(begun.initial).tableau({})
        for name in ("times", "start", "weights"):
            assert np.allclose(getattr(made, name), getattr(tableau, name), atol=1e-12)
        assert begun.initial.numel() == 6 + 6 + 21
    # The explicit midpoint method, written out.
    sample, levels = 1.0, path.tau
    for first in (0, 2, 4):
        half = sample + (levels[first + 1] - levels[first]) * np.sin(sample)
        sample += (levels[first + 2] - levels[first]) * np.sin(half)
    assert midpoint.solve(lambda sample, time: np.sin(sample), 1.0) == pytest.approx(sample, rel=1e-12)


def midpoint_tableau(path):
    """Half a step, then the whole step with the slope found there."""
    weights, whole = np.zeros((path.steps, path.steps)), np.zeros(path.steps)
    for first in range(0, path.steps, 2):
        weights[first] = whole
        weights[first, first] = path.tau[first + 1] - path.tau[first]
        whole[first + 1] = path.tau[first + 2] - path.tau[first]
        weights[first + 1] = whole
    return Tableau(path.times[:-1], np.ones(path.steps), weights)


def test_dyweight_begins_as_ipndm_and_moves_its_level_with_the_sum_of_its_weights(runs):
    path = runs.path(4)
    begun = DyWeight(path, order=2)
    made = begun.coefficients(begun.initial).tableau({})
    expected = ipndm_tableau(path, 2)
    assert np.allclose(made.weights, expected.weights)
    assert np.allclose(made.times, expected.times)
    parameters = DyWeight(path, order=1).initial.clone()
    parameters[0] = 0.5  # the first step goes half the way
    level = (path.tau[0] + path.tau[1]) / 2
    moved = begun.coefficients(parameters).tableau({})
    assert moved.times[1] == pytest.approx(1000 * level)
    assert moved.weights[0, 0] == pytest.approx(level - path.tau[0])
    assert moved.weights[1, 1] == pytest.approx(path.tau[2] - level)


def test_dyweight_is_refused_elsewhere_than_in_flow_matching():
    with pytest.raises(PeerError, match="flow matching"):
        DyWeight(runs_of("ddim").path(4))


@pytest.mark.parametrize("make", [lambda path: BNS(ipndm_tableau(path, 2)), DyWeight])
def test_gradients_are_those_of_finite_differences(make):
    runs = runs_of()
    solver, size = make(runs.path(3)), 2e-3
    _, gradient = loss_gradient(solver, runs, solver.initial, [0, 1])

    def loss(parameters):
        made = sampler(solver.coefficients(parameters).tableau({}))
        samples = torch.cat([runs.run([index], 3, made) for index in (0, 1)])
        fidelity = decibels(samples, runs.targets[:2])
        return float(-fidelity.mean() if solver.loss == "psnr" else 10 * torch.log10((10 ** (-fidelity / 10)).mean()))

    for index in range(len(solver.initial)):
        moved = torch.zeros_like(solver.initial)
        moved[index] = size
        expected = (loss(solver.initial + moved) - loss(solver.initial - moved)) / (2 * size)
        assert float(gradient[index]) == pytest.approx(expected, rel=0.02, abs=0.02)


@pytest.mark.parametrize("make", [lambda path: BNS(ipndm_tableau(path, 2)), DyWeight])
def test_training_improves_prompts_that_it_was_not_fitted_on(make):
    runs = runs_of(prompts=8, passes=1000)
    solver = make(runs.path(NFE))
    before = runs.fidelity(sampler(solver.coefficients(solver.initial).tableau({})))
    trained = SolverTraining(solver, runs).run()
    assert runs.fidelity(trained) > before + 6
    assert trained.settings["held-out dB"] == pytest.approx(runs.fidelity(trained), abs=0.01)
    assert 1000 <= trained.settings["passes"] < 1000 + 15 * 3 * NFE * 6  # the round that reaches the limit ends
    assert all(not weight.requires_grad for weight in runs.pipe.transformer.parameters())


def test_training_goes_on_where_it_was_interrupted(tmp_path):
    def train(folder, passes):
        runs = runs_of(prompts=3, folder=folder, passes=passes)
        return SolverTraining(BNS(ipndm_tableau(runs.path(3), 2)), runs).run()

    whole, half = train(tmp_path / "whole", 500), train(tmp_path / "parts", 100)
    assert half.settings["passes"] < whole.settings["passes"]
    continued = train(tmp_path / "parts", 500)
    assert continued.settings == whole.settings
    assert np.array_equal(continued.tableau.weights, whole.tableau.weights)
    again = train(tmp_path / "parts", 500)
    assert np.array_equal(again.tableau.weights, whole.tableau.weights)


def test_without_calibration_prompts_exact_solvers_run_as_published_and_learned_ones_are_refused():
    runs = replace(runs_of(), calibration=None)
    candidates = [ipndm_tableau(runs.path(NFE), order) for order in (4, 2)]
    assert runs.choose(candidates, "ipndm", "iPNDM", NFE).settings["order"] == 4
    with pytest.raises(PeerError, match="--calibration-prompts"):
        gits_candidates(runs, NFE, unipc=False)


@pytest.mark.parametrize("given", [{"prompts": ["one"]}, {"prompts": ["one", "two"], "batch": 0}])
def test_too_few_prompts_are_refused(given):
    with pytest.raises(PeerError, match="two prompts or more"):
        CalibrationPrompts(**given)


def test_another_number_of_steps_is_refused(runs):
    with pytest.raises(PeerError, match="has 5 steps, and the run 7"):
        runs.run([0], 7, sampler(ipndm_tableau(runs.path(5))))


def test_another_size_than_the_weights_is_refused(runs):
    path = runs.path(2)
    tableau = Tableau(path.times[:-1], np.ones((2, 3, 24)), np.zeros((2, 2, 3, 24)))
    with pytest.raises(PeerError, match=r"of shape \(3, 24\), the run's have \(4, 24\)"):
        runs.run([0], 2, sampler(tableau))


def test_a_pipeline_that_changes_samples_between_steps_is_refused(runs):
    class Blending(LoopPipeline):
        def __call__(self, *args, **kwargs):
            step = self.scheduler.step
            self.scheduler.step = lambda *args, **kwargs: tuple(0.9 * part for part in step(*args, **kwargs))
            return super().__call__(*args, **kwargs)

    pipe = Blending(OWN["flow"]())
    with pytest.raises(PeerError, match="changes samples"), sampler(ipndm_tableau(runs.path(3))).attached(pipe):
        pipe("a prompt", num_inference_steps=3)


def test_the_same_scheduler_comes_back(runs):
    own = runs.pipe.scheduler
    with pytest.raises(PeerError):
        runs.run([0], 7, sampler(ipndm_tableau(runs.path(5))))
    assert runs.pipe.scheduler is own
    runs.run([0], STEPS, PlainEntry("steps", "Steps", STEPS))
    assert runs.pipe.scheduler is own


def test_bfloat16_samples_are_summed_in_float32():
    tableau = Tableau(np.array([1000.0, 500.0]), np.ones(2), np.array([[-0.5, 0], [-0.5, -0.5]]))
    from foreseer.evaluate.peers.tableau_scheduler import TableauScheduler

    scheduler = TableauScheduler(OWN["flow"](), Coefficients.of(tableau))
    scheduler.set_timesteps(2)
    start = torch.full((1, 3), 1.0, dtype=torch.bfloat16)
    output = torch.full((1, 3), 1 / 128, dtype=torch.bfloat16)
    first = scheduler.step(output, scheduler.timesteps[0], start).prev_sample
    assert first.dtype == torch.bfloat16
    second = scheduler.step(output, scheduler.timesteps[1], first, return_dict=False)[0]
    assert second.float().tolist() == [[torch.tensor(1 - 1 / 128).bfloat16().item()] * 3]
