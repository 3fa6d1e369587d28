"""The run of one request in a server, shared by the plugins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from foreseer.attach.single_run import Run
from foreseer.errors import AttachError, ForeseerError, in_one_line
from foreseer.grid import Grid
from foreseer.hosts.choice import Choice

log = logging.getLogger("foreseer")


class ServedRun:
    """Forecasts of one request.

    Guidance may call several models, each several times per step, in the same order at every step.

    Args:
        run: whose forecasts are used; ``None`` if every step computes.

    Attributes:
        step: of the last call; -1 before the first.
    """

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self.step = -1
        self._calls: dict[str, int] = {}  # per model and side, the calls at this step
        self._models: list[Any] = []  # referenced, so that no id is reused
        self._reason = ""  # why a call outside of the plan was computed

    @classmethod
    def begin(cls, choice: Choice, read_grid: Callable[[], Grid]) -> ServedRun:
        """Begin the run of a request; one that cannot be forecast computes every step, and the log says why."""
        run = None
        try:
            grid = read_grid()
            policy = choice.policy(grid)
            if policy is not None:
                run = Run(policy, grid, warn=False, parallel=True)
        except ForeseerError as error:
            log.warning("Foreseer computes every step of a request: %s", in_one_line(error))
        return cls(run)

    def predict(
        self, step: int, model: Any, inputs: Sequence[Any], network: Callable[[], Any], side: str = "call"
    ) -> Any:
        """Answer one call of the network, by a forecast or by ``network``.

        Args:
            step: of the request's sampling loop.
            model: that is called; each model has separate branches.
            inputs: of the call, as for :meth:`foreseer.Run.forecast`.
            network: computes the output.
            side: of guidance, where the server names it.
        """
        branch = self._branch(step, model, side)
        if self.run is None:
            return network()
        try:
            output = self.run.forecast(step, branch, inputs)
        except AttachError as error:
            self._reason = self._reason or in_one_line(error)
            return network()
        if output is None:
            output = network()
            self.run.computed(step, output, branch)
        return output

    def end(self) -> None:
        """Free the features and log what was computed, with the first step computed against the plan."""
        if self.run is None:
            return
        self.run.free()
        record = self.run.record
        log.info("Foreseer: %d of %d steps computed", record.nfe, record.steps)
        if record.failed_open:
            first, number = record.failed_open[0], len(record.failed_open)
            log.warning("Foreseer: %d calls failed open, the first at step %d: %s", number, first.step, first.reason)
        if self._reason:
            log.warning("Foreseer: a call was computed: %s", self._reason)

    def _branch(self, step: int, model: Any, side: str) -> str:
        if step != self.step:
            self.step, self._calls = step, {}
        number = next((index for index, other in enumerate(self._models) if other is model), len(self._models))
        if number == len(self._models):
            self._models.append(model)
        name = f"{side} of model {number + 1}"
        self._calls[name] = self._calls.get(name, 0) + 1
        return name if self._calls[name] == 1 else f"{name}, repeat {self._calls[name]}"
