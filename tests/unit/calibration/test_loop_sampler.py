"""Learning without diffusers: a Gaussian mixture's score and DDIM, in NumPy."""

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.job_checks import split_prompts
from foreseer.calibration.sampler import SamplerError
from foreseer.errors import CalibrationError
from foreseer.methods.train_l2p import train_l2p

STEPS, NFE = 20, 5
TIMES = np.linspace(1.0, 1e-3, STEPS + 1)
ALPHAS = np.exp(-0.1 * TIMES - 9.95 * TIMES**2)
SIGMAS = np.sqrt((1 - ALPHAS) / ALPHAS)
GRID = fs.Grid(SIGMAS[:-1], final_level=SIGMAS[-1])
MEANS = np.random.default_rng(0).standard_normal((6, 8))


def epsilon(x, step):
    variance = 1 - ALPHAS[step] + ALPHAS[step] * 0.3**2
    away = x[:, None] - np.sqrt(ALPHAS[step]) * MEANS
    share = np.exp(-(away**2).sum(2, keepdims=True) / (2 * variance))
    return np.sqrt(1 - ALPHAS[step]) * (share * away).sum(1) / (share.sum(1) * variance)


def ddim(x, denoise):
    for step in range(STEPS):
        noise = denoise(x, step)
        clean = (x - np.sqrt(1 - ALPHAS[step]) * noise) / np.sqrt(ALPHAS[step])
        x = np.sqrt(ALPHAS[step + 1]) * clean + np.sqrt(1 - ALPHAS[step + 1]) * noise
    return x


def starts(first, count):
    return [np.random.default_rng(seed).standard_normal((48, 8)) for seed in range(first, first + count)]


FITTED, OTHERS = starts(0, 4), starts(100, 3)


@pytest.fixture(scope="module")
def sampler():
    return fs.Sampler(ddim, epsilon, GRID)


@pytest.fixture(scope="module")
def kernel(sampler):
    return fs.calibrate(sampler, FITTED)


@pytest.fixture(scope="module")
def rolled(sampler, kernel):
    return fs.rollout(sampler, kernel, FITTED, nfe=NFE)


def error_on_others(policy):
    errors = []
    for start in OTHERS:
        denoise = fs.wrap(epsilon, policy, GRID)
        drawn = ddim(start, lambda x, step, denoise=denoise: denoise(step, x, step))
        assert (denoise.record.nfe, denoise.record.failed_open) == (NFE, [])
        whole = ddim(start, epsilon)
        errors.append(np.linalg.norm(drawn - whole) / np.linalg.norm(whole))
    return np.mean(errors)


def test_what_is_learned_beats_formulas_on_other_noises(sampler, kernel, rolled):
    recorder = fs.Recorder(GRID, sampler.matrix(FITTED[0]))
    for start in FITTED[:2]:
        ddim(start, recorder.record(epsilon))
    for start in FITTED[2:]:
        outputs = []
        ddim(start, lambda x, step, outputs=outputs: outputs.append(epsilon(x, step)) or outputs[-1])
        recorder.add(outputs, start)
    recorded = recorder.kernel()
    assert np.allclose(recorded.grams, kernel.grams, rtol=1e-12)
    assert recorded.final_squares == pytest.approx([np.mean(ddim(start, epsilon) ** 2) for start in FITTED])
    forecasters = fs.forecast.AdamsBashforth(order=2), train_l2p(recorded)
    schedules = fs.schedule.Explicit(rolled.computed_steps, of=STEPS), fs.schedule.Uniform.for_nfe(NFE, STEPS, warmup=2)
    peers = [error_on_others(fs.Policy(schedule, each)) for schedule in schedules for each in forecasters]
    learned = error_on_others(fs.learned(recorded, nfe=NFE))
    assert error_on_others(rolled) < min(learned, 0.8 * min(peers))


@pytest.fixture(scope="module")
def plain():
    schedule = fs.schedule.Uniform.for_nfe(NFE, STEPS)
    return fs.Policy(schedule, fs.forecast.AdamsBashforth(order=2)).compile(GRID)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_steps_that_leave_the_region_where_the_score_is_finite_are_not_taken(sampler, plain):
    refined = fs.refine(sampler, plain, FITTED, iterations=1)
    assert np.isfinite(refined.rows).all()
    assert error_on_others(refined) < 1.2 * error_on_others(plain)  # fitted on three prompts only


def test_refine_improves_any_plan_and_accelerate_serves_the_loop(sampler, plain):
    refined = fs.refine(sampler, plain, starts(0, 6), iterations=1)
    assert error_on_others(refined) < 0.7 * error_on_others(plain)
    denoise = fs.wrap(epsilon, refined, GRID)
    with fs.accelerate(sampler, refined) as handle:
        drawn = sampler(OTHERS[0])
    assert handle.record.nfe == NFE
    assert np.array_equal(drawn, ddim(OTHERS[0], lambda x, step: denoise(step, x, step)))


def test_conditions_and_modules_of_ones_own():
    weight = torch.nn.Linear(4, 4, bias=False)
    grid = fs.Grid.uniform(6)

    def sample(start, denoise):
        x, label = start
        for t in grid:
            x = x - denoise(x, t, label=label) / 6
        return x

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x, t, label):
            return torch.tanh(self.weight(x)) * t + label

    sampler = fs.Sampler(sample, Model(), grid)
    noises = [(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)), float(seed)) for seed in range(3)]
    kernel = fs.calibrate(sampler, noises)
    assert np.allclose(kernel.sampler[-1], [1.0, *[-1 / 6] * 6])
    assert fs.rollout(sampler, kernel, noises, nfe=3).nfe == 3


@pytest.mark.usefixtures("as_users_call")
def test_starts_that_are_no_list_are_refused_before_the_model_runs(kernel, plain):
    ran = []
    sampler = fs.Sampler(lambda x, denoise: ran.append(x), epsilon, GRID)
    calls = [
        lambda starts: fs.calibrate(sampler, starts),
        lambda starts: fs.rollout(sampler, kernel, starts, nfe=NFE),
        lambda starts: fs.mix_channels(sampler, plain, starts),
        lambda starts: fs.refine(sampler, plain, FITTED, held_out=starts),
        lambda starts: fs.move_steps(sampler, plain, kernel, starts, max_passes=9),
        lambda starts: fs.tune(sampler, starts),
    ]
    for call in calls:
        for starts in ([], {}, FITTED[0], iter(FITTED)):
            with pytest.raises(CalibrationError, match=r"prompts is|held_out is"):
                call(starts)
    assert ran == []
    fitted, judges = split_prompts(FITTED[:2], FITTED[2:3], seed=7)
    assert ([seed for seed, _ in fitted], judges[0][0]) == ([7, 8], 9)


def test_loops_that_do_not_fit_are_refused(sampler, kernel):
    noise = np.random.default_rng(0)

    def stochastic(x, denoise):
        for step in range(STEPS):
            x = x - denoise(x, step) / STEPS + 0.1 * noise.standard_normal(x.shape)
        return x

    def heun(x, denoise):
        for step in range(STEPS):
            first = denoise(x, step)
            x = x - (first + denoise(x - first / STEPS, step)) / (2 * STEPS)
        return x

    with pytest.raises(SamplerError, match="stochastic"):
        fs.rollout(fs.Sampler(stochastic, epsilon, GRID), kernel, FITTED[:1], nfe=NFE)
    with pytest.raises(CalibrationError, match="more than 20 times"):
        fs.calibrate(fs.Sampler(heun, epsilon, GRID), FITTED[:1])
    with pytest.raises(CalibrationError, match="grid has 20 steps; 40"):
        fs.rollout(sampler, kernel, FITTED[:1], nfe=NFE, teacher_steps=40)
    with pytest.raises(CalibrationError, match="expected 20 of one size"):
        fs.Recorder(GRID).add([np.ones(3)] * 19)
    with pytest.raises(CalibrationError, match="No run of 20 steps"):
        fs.Recorder(GRID).kernel()


def test_tune_serves_a_loop_whose_samples_have_no_channels(sampler):
    profile = fs.tune(sampler, FITTED, budgets=[NFE], iterations=1)
    assert profile.plans[0].provenance["mixing"].startswith("none: Where a sample of shape (48, 8) has its channels")
    assert profile.plans[0].mixing is None


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.Sampler(None, epsilon, GRID), "sample is a NoneType; expected a function"),  # pyright: ignore
        (lambda: fs.Sampler(ddim, "model", GRID), "denoise is a str; expected a function"),  # pyright: ignore
        (lambda: fs.Recorder(GRID, np.eye(STEPS)), r"shape \(20, 20\); expected finite numbers of shape \(21, 21\)"),
        (lambda: fs.Recorder(GRID, np.full((STEPS + 1, STEPS + 1), np.nan)), "expected finite numbers"),
        (lambda: fs.Recorder(GRID, "matrix"), "is a str; expected an array"),  # pyright: ignore
        (lambda: fs.Recorder(GRID, provenance={"model": 5}), "must be a string"),  # pyright: ignore
        (lambda: fs.Recorder(GRID).record(None), "denoise is a NoneType; expected a function"),  # pyright: ignore
    ],
)
def test_wrong_parts_are_refused_when_they_are_given(make, message):
    with pytest.raises(CalibrationError, match=message):
        make()


def test_a_run_that_is_broken_off_is_not_taken_for_the_beginning_of_the_next(kernel):
    recorder = fs.Recorder(GRID)
    broken = recorder.record(epsilon)
    broken(FITTED[0], 0)
    for start in FITTED:
        ddim(start, recorder.record(epsilon))
    assert recorder.kernel().grams == pytest.approx(kernel.grams, rel=1e-12)
    once = recorder.record(epsilon)
    ddim(FITTED[0], once)
    with pytest.raises(CalibrationError, match="This run is complete"):
        once(FITTED[0], 0)
