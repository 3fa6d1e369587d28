"""What takes long is said while it takes long."""

import logging
import time

import pytest

import foreseer as fs
from foreseer import notices


class Slow(fs.schedule.Schedule):
    """Takes longer than one waits in silence."""

    def _computed_steps(self, steps: int) -> list[int]:
        time.sleep(0.2)
        return [0, *range(2, steps, 2)]


@pytest.mark.parametrize(("patience", "said"), [(0.01, 1), (60.0, 0)])
def test_a_slow_search_is_said_once_for_a_grid(
    patience: float, said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "SECONDS", patience)
    policy = fs.Policy(Slow(), fs.forecast.Reuse())
    with caplog.at_level(logging.WARNING, "foreseer"):
        for _ in range(2):
            policy.compile(fs.Grid.uniform(10))
    assert caplog.text.count("Searching the computed steps of a run of 10 steps") == said
