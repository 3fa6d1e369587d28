"""Peers run, land near the budget, and leave the bundled pipeline exactly as it was."""

import importlib.util
import math

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.evaluate.bench.selection import Selection
from foreseer.evaluate.entries.tune_gates import bisect
from foreseer.evaluate.peers import PEERS, CalibrationPrompts, PeerError, Probe, find_peer
from foreseer.evaluate.peers.diffusers_caches import broadcast_interval, taylor_computed, taylor_interval

STEPS, NFE = 8, 5
SOLVERS = ("dpm-solver", "unipc", "heun")


class InterruptedRunError(Exception):
    pass


@pytest.fixture(scope="module")
def pipe(emoji):
    return emoji


@pytest.fixture(scope="module")
def probe(pipe):
    prompts = CalibrationPrompts(["a panda on a red background", "a rocket on a purple background"], passes=100)
    return Probe.of(pipe, STEPS, calibration_prompts=prompts)


@pytest.fixture(scope="module")
def find(pipe, probe):
    """Peers by name at one budget, each set up once."""
    found = {}

    def one(name):
        if name.startswith("cache-dit") and importlib.util.find_spec("cache_dit") is None:
            pytest.skip("cache-dit is not installed: pip install 'foreseer[peers]'")
        if name not in found:
            found[name] = find_peer(name, pipe, STEPS, NFE, probe=probe)
        return found[name]

    return one


def draw(pipe, probe, steps=STEPS, seed=3, **more):
    options = {**probe.options, "num_inference_steps": steps, "output_type": "latent", **more}
    return pipe("a red apple", generator=torch.Generator().manual_seed(seed), **options).images.numpy()


def everything(pipe):
    """What an attachment could leave behind, compared by identity."""
    parts = {
        name: (
            {key: id(value) for key, value in vars(part).items()},
            [(key, id(child)) for key, child in part._modules.items()],
            [len(hooks) for key, hooks in vars(part).items() if key.endswith("_hooks")],
            list(part._diffusers_hook.hooks) if hasattr(part, "_diffusers_hook") else None,
        )
        for name, part in pipe.transformer.named_modules()
    }
    kind = {key: id(value) for key, value in vars(type(pipe)).items()}
    # Attributes that every run rewrites (the last timestep, ...) count by name.
    return parts, kind, sorted(vars(pipe)), {name: id(part) for name, part in pipe.components.items()}


def first_difference(before, after):
    parts, *rest = before
    changed = [name for name, state in parts.items() if after[0].get(name) != state]
    return changed, rest == list(after[1:])


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_runs_at_its_budget_and_leaves_the_pipeline_as_it_was(pipe, probe, find, name):
    entry = find(name)
    reference = draw(pipe, probe)
    before = everything(pipe)
    with entry.attached(pipe):
        first = draw(pipe, probe, entry.steps)
        second = draw(pipe, probe, entry.steps)
    assert first_difference(before, everything(pipe)) == ([], True)
    assert not [part for name, part in pipe.transformer.named_modules() if name and "_diffusers_hook" in vars(part)]
    assert not [part for name, part in pipe.transformer.named_modules() if name and "forward" in vars(part)]
    assert np.array_equal(draw(pipe, probe), reference)
    assert np.array_equal(first, second)
    error = np.linalg.norm(first - reference) / np.linalg.norm(reference)
    assert 0 < error < 0.5
    landed = entry.settings["nfe_by_flops"]
    if entry.settings.get("skips") == "attention only":
        assert NFE < landed < STEPS
    else:
        assert abs(landed - NFE) <= 1
    assert entry.name == name
    assert entry.budget == NFE


@pytest.mark.parametrize("name", PEERS)
def test_an_exception_in_the_run_leaves_the_pipeline_clean(pipe, probe, find, name):
    entry = find(name)
    reference = draw(pipe, probe)
    with entry.attached(pipe):
        fresh = draw(pipe, probe, entry.steps)

    def interrupt(pipe, step, timestep, tensors):
        if step == 1:
            raise InterruptedRunError
        return tensors

    before = everything(pipe)
    with pytest.raises(InterruptedRunError), entry.attached(pipe):
        draw(pipe, probe, entry.steps, seed=9, callback_on_step_end=interrupt)
    assert first_difference(before, everything(pipe)) == ([], True)
    assert np.array_equal(draw(pipe, probe), reference)
    with entry.attached(pipe):
        assert np.array_equal(draw(pipe, probe, entry.steps), fresh)


def test_the_order_of_submodules_survives_cache_dit(pipe, probe, find):
    order = [name for name, _ in pipe.transformer.named_modules()]
    with find("cache-dit").attached(pipe):
        draw(pipe, probe)
        assert [name for name, _ in pipe.transformer.named_modules()] != order  # the day this fails, drop the remedy
    assert [name for name, _ in pipe.transformer.named_modules()] == order


@pytest.mark.parametrize("nfe", [0, STEPS + 1])
@pytest.mark.parametrize("name", ["diffusers-first-block", "heun"])
def test_a_budget_outside_the_run_is_refused(pipe, probe, name, nfe):
    with pytest.raises(PeerError, match=f"{nfe} computed steps do not fit a run of {STEPS} steps"):
        find_peer(name, pipe, STEPS, nfe, probe=probe)


def test_one_evaluation_is_refused_by_taylorseer_and_one_step_of_a_solver(pipe, probe):
    with pytest.raises(PeerError, match="2 steps or more"):
        find_peer("diffusers-taylorseer", pipe, STEPS, 1, probe=probe)
    for name in SOLVERS:
        entry = find_peer(name, pipe, STEPS, 1, probe=probe)
        assert (entry.steps, entry.settings["nfe_by_flops"]) == (1, 1.0)


def test_an_unknown_name_is_refused(pipe):
    with pytest.raises(PeerError, match="Unknown peer 'teacache': expected one of diffusers-taylorseer"):
        find_peer("teacache", pipe, STEPS, NFE)


def test_a_missing_package_says_how_to_install_it(pipe, probe, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cache_dit", None)
    with pytest.raises(PeerError, match=r"pip install 'foreseer\[peers\]'"):
        find_peer("cache-dit", pipe, STEPS, NFE, probe=probe)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.learns])
def test_peers_that_learn_ask_for_prompts_and_a_budget(pipe, name):
    with pytest.raises(PeerError, match="--calibration-prompts FILE"):
        find_peer(name, pipe, STEPS, NFE)
    with pytest.raises(PeerError, match="give a budget"):
        find_peer(name, pipe, STEPS)


def test_a_bench_runs_peers_that_learn_where_there_are_prompts():
    prompts = CalibrationPrompts(["a cat", "a dog"])
    learned = {name for name, peer in PEERS.items() if peer.learns}
    without = Selection(STEPS, [NFE], everything=True)
    given = Selection(STEPS, [NFE], everything=True, calibration_prompts=prompts)
    assert set(given.names()) - set(without.names()) == learned
    assert "deis" in without.names()
    assert {one.name for one in given.entries()} >= learned


def test_two_at_once_are_refused(pipe, find):
    entry = find("diffusers-pab")
    with fs.accelerate(pipe, fs.methods.find("reuse").policy(STEPS, NFE)), pytest.raises(PeerError, match="detach"):
        entry.attached(pipe).__enter__()
    with entry.attached(pipe), pytest.raises(PeerError, match="cache is enabled"):
        find("diffusers-taylorseer").attached(pipe).__enter__()
    assert not pipe.transformer.is_cache_enabled


def test_a_model_without_caches_is_refused(pipe, probe, find, monkeypatch):
    entry = find("diffusers-taylorseer")
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                                 down_block_types=("DownBlock2D", "DownBlock2D"),
                                 up_block_types=("UpBlock2D", "UpBlock2D"))  # fmt: skip
    other = diffusers.DDPMPipeline(unet, diffusers.DDIMScheduler())
    with pytest.raises(PeerError, match="UNet2DModel has no enable_cache"), entry.attached(other):
        pass
    assert not hasattr(unet, "_diffusers_hook")


def test_branches_of_guidance_are_separated_or_refused(pipe, probe):
    options = {**probe.options, "true_cfg_scale": 3.0, "negative_prompt": ""}
    guided = Probe.of(pipe, 6, options)
    assert guided.branches == 2
    with pytest.raises(PeerError, match="branches"):
        find_peer("diffusers-pab", pipe, 6, 3, probe=guided)
    if importlib.util.find_spec("cache_dit") is not None:
        assert find_peer("cache-dit", pipe, 6, 3, probe=guided).separate_guidance
    entry = find_peer("diffusers-taylorseer", pipe, 6, 4, probe=guided)
    assert abs(entry.settings["nfe_by_flops"] - 4) < 0.5


@pytest.mark.parametrize("steps", [4, 12, 28, 50])
def test_intervals_compute_exactly_the_budget(steps):
    for nfe in range(2, steps + 1):
        first, interval = taylor_interval(nfe, steps)
        assert taylor_computed(first, interval, steps) == nfe
        first, interval = broadcast_interval(nfe, steps)
        assert len({*range(first), *(step for step in range(first, steps) if step % interval == 0)}) == nfe


def test_bisection_finds_the_nearest_step():
    def stairs(threshold):
        return 50 - 4 * math.floor(3 * math.log10(threshold / 1e-4))

    threshold, found = bisect(stairs, 21, 1e-4, 10.0)
    assert found == stairs(threshold)
    assert abs(found - 21) == min(abs(stairs(10 ** (power / 100 - 4)) - 21) for power in range(500))
