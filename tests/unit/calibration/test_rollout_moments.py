"""Prompts whose samples have left the reference do not decide the rows of the others."""

import numpy as np

from foreseer.calibration.rollout_moments import Moments, Share
from foreseer.forecast.joint_rows import JointRows

MATRIX = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])  # Euler's, three steps of length 1


def share(features, outputs):
    """Inner products of the newest of a student's features; ``outputs`` are those of the reference."""
    targets = MATRIX[:, 1:] @ outputs
    newest = features[-1:]
    return Share(newest @ features.T, newest @ outputs.T, newest @ targets.T, (targets**2).sum(1), np.ones(1, np.int64))


def fitted(*, weighted):
    """Row of step 2 after computed steps 0 and 1; the last of five students has left its reference."""
    rng = np.random.default_rng(0)
    moments = Moments.none(1, MATRIX, 5)
    rows = JointRows(moments, np.ones(1), [np.array([0, 1])], 3, ridge=0.0, branch_weight=0.0, feedback_gain=1.0)
    outputs = rng.standard_normal((5, 3, 6))
    outputs[:, 2] = 2 * outputs[:, 1] - outputs[:, 0]
    seen = outputs[:, :2] + 1e-3 * rng.standard_normal((5, 2, 6))
    seen[4] = outputs[4, :2] + 30 * rng.standard_normal((2, 6))
    for step in (0, 1):
        moments.grow([share(seen[p, : step + 1], outputs[p]) for p in range(5)], [step])
        if weighted:
            moments.weigh(rows.forecast, step)
        rows.fit(step, step + 1 if step == 0 else 3)
    return rows.rows[0, 2, :2], moments


def test_a_student_that_left_its_reference_does_not_decide_the_rows_of_the_others():
    row, moments = fitted(weighted=True)
    assert moments.weights[4] < 1e-6
    assert np.isclose(moments.weights.sum(), 1)
    assert np.abs(row - [-1, 2]).max() < 0.02
    assert np.abs(fitted(weighted=False)[0] - [-1, 2]).max() > 0.5


def test_students_on_their_reference_weigh_alike():
    moments = Moments.none(1, MATRIX, 3)
    rows = JointRows(moments, np.ones(1), [np.array([0])], 3, ridge=0.0, branch_weight=0.0)
    outputs = np.random.default_rng(1).standard_normal((3, 3, 6))
    moments.grow([share(one[:1], one) for one in outputs], [0])
    moments.weigh(rows.forecast, 1)
    assert np.allclose(moments.weights, 1 / 3)
