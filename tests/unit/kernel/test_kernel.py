from dataclasses import replace

import numpy as np
import pytest

import foreseer as fs
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel, KernelError
from foreseer.kernel.interpolate import resampled
from foreseer.kernel.kernel import DRIFT
from foreseer.kernel.kernel_file import KERNEL_FILE, KernelFileError
from foreseer.kernel.level_interpolation import LevelInterpolation, interpolation_weights


def trajectories(prompts=5, steps=16, size=60, seed=0):
    """Smooth random features, shape (prompts, steps, size)."""
    generator = np.random.default_rng(seed)
    t = fs.Grid.uniform(steps).levels
    basis = np.stack([np.ones(steps), t, np.exp(-4 * t), np.sin(3 * t), t**3], axis=1)
    return basis @ generator.standard_normal((prompts, 5, size)) + 0.01 * generator.standard_normal(
        (prompts, steps, size)
    )


def kernel_of(features):
    grams = features @ features.transpose(0, 2, 1) / features.shape[2]
    squares = np.ones(len(features))
    return Kernel(
        fs.Grid.uniform(features.shape[1]), grams, np.eye(features.shape[1] + 1), squares, provenance={"a": "b"}
    )


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1e-2])
def test_kernel_rows_equal_brute_force_least_squares_on_the_trajectories(ridge):
    features = trajectories()
    kernel = kernel_of(features)
    computed, step = np.array([0, 1, 4, 8]), 11
    stacked = features.transpose(1, 0, 2).reshape(features.shape[1], -1) / np.sqrt(
        features.shape[0] * features.shape[2]
    )
    strength = ridge * np.trace(kernel.pooled[np.ix_(computed, computed)]) / 4
    design = np.vstack([stacked[computed].T, np.sqrt(strength) * np.eye(4)])
    target = np.concatenate([stacked[step], np.zeros(4)])
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    assert KernelRows(kernel, ridge=ridge).row(computed, step, kernel.grid) == pytest.approx(expected, abs=1e-6)


def test_shrinkage_goes_to_the_prior_and_sum_to_one_is_kept():
    kernel = kernel_of(trajectories())
    prior = fs.forecast.Newton(order=1)
    strong = KernelRows(kernel, ridge=1e9, prior=prior).row((0, 2, 5), 8, kernel.grid)
    assert strong == pytest.approx(prior.row((0, 2, 5), 8, kernel.grid), abs=1e-6)
    constrained = KernelRows(kernel, ridge=1e-3, sum_to_one=True).row((0, 2, 5), 8, kernel.grid)
    assert constrained.sum() == pytest.approx(1.0, abs=1e-12)
    free = KernelRows(kernel, ridge=1e-3).row((0, 2, 5), 8, kernel.grid)
    assert abs(free.sum() - 1) > 1e-6


def test_the_rows_of_a_segment_are_those_of_its_steps():
    kernel = kernel_of(trajectories())
    for rows in (
        KernelRows(kernel),
        KernelRows(kernel, sum_to_one=True),
        KernelRows(kernel, ridge=0.1, prior=fs.forecast.Reuse()),
        fs.forecast.TaylorSeer(order=2),
    ):
        expected = np.stack([rows.row((0, 1, 4), step, kernel.grid) for step in (5, 6, 9)])
        assert rows.segment((0, 1, 4), [5, 6, 9], kernel.grid) == pytest.approx(expected, abs=1e-9)


def test_interpolation_reproduces_cubics_and_known_levels():
    known = np.linspace(1, 0.05, 20) ** 1.3
    wanted = np.linspace(0.97, 0.06, 37)
    weights = interpolation_weights(known, wanted)
    for power in range(4):
        assert weights @ known**power == pytest.approx(wanted**power, abs=1e-12)
    assert interpolation_weights(known, known) == pytest.approx(np.eye(20), abs=1e-12)


def gram(features):
    return features @ features.transpose(0, 2, 1) / features.shape[2]


def test_what_interpolation_leaves_open_is_counted_and_nothing_at_the_levels_themselves():
    known, wanted = fs.Grid.uniform(16).levels, np.sort(np.append(fs.Grid.uniform(16).levels, [0.53, 0.41]))[::-1]
    cubic = np.stack([known**power for power in range(4)], axis=1) @ np.random.default_rng(0).normal(size=(1, 4, 500))
    rough = np.random.default_rng(1).normal(size=(1, 16, 5000))
    smooth = np.sin(2 * known[:, None] + np.linspace(0, 6, 500))[None]
    open_shares = []
    for features in (cubic, smooth, rough):
        between = LevelInterpolation.levels(known, wanted.copy(), gram(features)[0])
        unsure = between.of(gram(features))[0] - gram(between.weights @ features)[0]
        shares = np.diag(unsure) / np.diag(gram(features)[0]).mean()
        assert shares[np.isin(wanted, known)] == pytest.approx(0.0, abs=1e-12)
        open_shares.append(float(shares[~np.isin(wanted, known)].mean()))
    assert open_shares[0] < 1e-12
    assert 1e-12 < open_shares[1] < 1e-5
    assert 0.5 < open_shares[2] < 2.5  # nothing is known of a level from its neighbours


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_few_levels_are_interpolated_too(steps):
    kernel = kernel_of(trajectories(steps=steps))
    top = kernel.grid.levels[-1]
    grid = fs.Grid(np.linspace(1.0, top, 9)) if steps > 1 else kernel.grid
    moved = kernel.on(grid)
    assert np.linalg.eigvalsh(moved.pooled).min() > -1e-9
    assert np.all(np.isfinite(moved.grams))


@pytest.mark.parametrize("steps", [8, 12, 24])
def test_the_error_expected_on_a_finer_grid_is_not_below_the_one_met_there(steps):
    def features_on(grid):
        return np.sin(9 * grid.levels[:, None] + np.linspace(0, 6, 400))[None]

    coarse, grid = fs.Grid.uniform(steps), fs.Grid.uniform(48)
    kernel = Kernel(coarse, gram(features_on(coarse)), provenance={}).on(grid)
    rows = fs.Plan.compile(grid, tuple(range(0, 48, 3)), KernelRows(kernel)).rows
    met = gram(features_on(grid) - rows @ features_on(grid))[0]
    apart = np.eye(48) - rows
    expected = np.trace(apart @ kernel.pooled @ apart.T)
    assert 0.1 * expected < np.trace(met) + 1e-9 * 48
    assert np.trace(met) < 2.0 * expected


def test_an_interpolated_kernel_is_positive_semi_definite_and_kept():
    kernel = kernel_of(trajectories())
    grid = resampled(kernel.grid, 11)
    moved = kernel.on(grid)
    assert len(moved.grid) == 11
    assert np.linalg.eigvalsh(moved.pooled).min() > -1e-12
    assert kernel.on(grid) is moved
    assert kernel.on(kernel.grid) is kernel


def test_a_kernel_refuses_grids_that_it_cannot_cover():
    kernel = kernel_of(trajectories())
    with pytest.raises(KernelError, match=r"noise level 1\.5"):
        kernel.on(fs.Grid([1.5, 1.0, 0.5]))
    with pytest.raises(KernelError, match="timestep"):
        kernel.on(fs.Grid([900.0, 500.0], unit="timestep"))


def test_what_is_no_grid_is_refused(as_users_call):
    with pytest.raises(KernelError, match="grid is a str; expected a Grid"):
        kernel_of(trajectories()).on("x")


def test_a_resampled_grid_is_the_one_that_flow_matching_would_visit():
    assert resampled(fs.Grid.uniform(50), 20).levels == pytest.approx(fs.Grid.uniform(20).levels)


def test_files_come_back_and_damaged_ones_are_refused(tmp_path):
    kernel = kernel_of(trajectories())
    file = tmp_path / "a.kernel.safetensors"
    kernel.save(file)
    again = Kernel.load(file)
    assert np.array_equal(again.grams, kernel.grams)
    assert again.grid == kernel.grid
    assert dict(again.provenance) == {"a": "b"}
    assert again.drift == DRIFT
    replace(kernel, drift=0.3).save(file)
    assert Kernel.load(file).drift == 0.3
    arrays, texts = KERNEL_FILE.load(file)
    assert texts.pop("drift") == "0.3"
    KERNEL_FILE.save(file, arrays, texts)
    assert Kernel.load(file).drift == DRIFT  # as files of former versions
    KERNEL_FILE.save(file, arrays, {**texts, "drift": "much"})
    with pytest.raises(KernelFileError, match="could not convert string to float"):
        Kernel.load(file)
    kernel.save(file)
    content = file.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(content[: generator.integers(0, len(content))])
        file.write_bytes(bytes(damaged))
        with pytest.raises(KernelFileError):
            Kernel.load(file)
    plan = fs.methods.find("reuse").policy().compile(fs.Grid.uniform(50))
    plan.save(file)
    with pytest.raises(KernelFileError, match="is a plan; expected a kernel"):
        Kernel.load(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grams": np.zeros((2, 16, 15))}, "expected"),
        ({"grams": np.full((2, 16, 16), np.nan)}, "finite"),
        ({"grams": np.triu(np.ones((2, 16, 16)))}, "symmetric"),
        ({"sampler": np.eye(3)}, "sampler"),
        ({"final_squares": np.zeros(5)}, "positive"),
        ({"drift": -1.0}, "drift is -1.0; expected a finite number"),
        ({"drift": np.inf}, "drift is inf; expected a finite number"),
        ({"drift": "much"}, "drift is 'much'; expected a finite number"),
        ({"drift": np.ones(2)}, "drift is array.*; expected a finite number"),
        ({"sensitivity": None}, "sensitivity is None; expected a finite number"),
        ({"sensitivity": []}, r"sensitivity is \[\]; expected a finite number"),
    ],
)
def test_moments_that_do_not_belong_together_are_refused(as_users_call, change, words):
    from dataclasses import replace

    with pytest.raises(KernelError, match=words):
        replace(kernel_of(trajectories()), **change)


def test_a_site_s_former_name_is_read_as_the_present_one():
    kernel = Kernel(fs.Grid.uniform(2), np.eye(2)[None], site="change(blocks=[0, 1])")
    assert kernel.site == "residual"
    assert replace(kernel, site="last_block").site == "last_block"
