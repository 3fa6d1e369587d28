"""One run of one ComfyUI sampler: computes or forecasts each call of the guider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foreseer.attach.single_run import Run
from foreseer.errors import AttachError, ForeseerError, in_one_line
from foreseer.grid import Grid
from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.levels import step_at
from foreseer.hosts.comfyui.pieces import Conditions, Piece, cut
from foreseer.hosts.comfyui.run_report import RunReport


class _PieceRun:
    """A piece of the run and its forecasts; ``run`` is ``None`` where every step computes."""

    def __init__(self, piece: Piece, run: Run | None) -> None:
        self.piece = piece
        self.run = run
        self.visits: list[int] = [0] * (piece.stop - piece.start)


class SamplingRun:
    """State of one run of a sampler, from its first call to its last.

    Args:
        choice: method and budget.
        sigmas: T + 1 noise levels, the last being where the run ends.
        conditions: the guider's processed conditions.
        post_cfg_functions: how many post-CFG functions the model has before the sampler adds its own.
        network_input: what the network receives at a noise level, from (level, sample); ``None`` if unknown.
    """

    def __init__(
        self,
        choice: Choice,
        sigmas: Sequence[float],
        conditions: Conditions,
        post_cfg_functions: int = 0,
        network_input: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.levels = list(sigmas[:-1])
        self.report = RunReport(steps=len(self.levels))
        self._choice = choice
        self._post_cfg_functions = post_cfg_functions
        self._network_input = network_input
        self._next = 0  # the step that is expected
        self._pieces = [self._begin(choice, sigmas, piece) for piece in cut(self.levels, conditions)]

    def _begin(self, choice: Choice, sigmas: Sequence[float], piece: Piece) -> _PieceRun:
        levels = sigmas[piece.start : piece.stop]
        try:
            grid = Grid(levels, "sigma", final_level=float(sigmas[piece.stop]))
            policy = choice.policy(grid, piece.first_steps)
            run = None if policy is None else Run(policy, grid, warn=False)
        except ForeseerError as error:
            self.report.add_reason(in_one_line(error))
            run = None
        if run is not None:
            self.report.records.append(run.record)
        return _PieceRun(piece, run)

    def denoised(self, x: Tensor, sigma: Tensor, network: Callable[[], Tensor], post_cfg_functions: int = 0) -> Tensor:
        r"""Return the denoised sample $D$ at one call, computed or forecast.

        The forecast is $x - \sigma \hat F$ with $F = (x - D) / \sigma$.

        Args:
            x: the noisy sample, of any shape.
            sigma: shape (B,), noise level of each sample; reading waits for its device, and is left out if all compute.
            network: computes $D$.
            post_cfg_functions: how many post-CFG functions the model has now.
        """
        self.report.calls += 1
        place = self._place(sigma, post_cfg_functions)
        if place is None:
            return self._compute(network)
        run, step, branch, level = place
        try:
            forecast = run.forecast(step, branch, (self._input(step, x, sigma),), onto=(x, -level))
        except AttachError:
            self.report.add_reason("the sampler goes back to higher noise levels out of order")
            return self._compute(network)
        if forecast is not None:
            return forecast
        denoised = self._compute(network)
        if denoised.shape == x.shape:
            run.computed(step, _difference(x, denoised), branch, scale=1.0 / level)
        else:
            self.report.add_reason("the network's output has another shape than its input")
            run.computed(step, denoised, branch)
            run.free()
        return denoised

    def _input(self, step: int, x: Tensor, sigma: Tensor) -> Tensor:
        """The network's input at the first step, of the sample's dtype; of another shape where unknown."""
        if step == 0 and self._network_input is not None:
            found = self._network_input(sigma, x).to(x)
            if found.shape == x.shape:
                return found
            self._network_input = None
        return x if self._network_input is not None else x[None]

    def _compute(self, network: Callable[[], Tensor]) -> Tensor:
        denoised = network()
        self.report.forward_passes += 1
        return denoised

    def _place(self, sigma: Tensor, post_cfg_functions: int) -> tuple[Run, int, str, float] | None:
        """The run, step, branch and noise level of a call; ``None`` if it must be computed."""
        if not self.report.records:
            return None
        if post_cfg_functions > self._post_cfg_functions:
            self.report.add_reason("the sampler reads the unconditional prediction (cfg++), which a forecast skips")
            return None
        level, *others = sigma.tolist()
        step = step_at(self.levels, level, self._next)
        if step is None or any(other != level for other in others):
            self.report.between_levels += 1
            return None
        self._next = step + 1
        part = next(part for part in self._pieces if part.piece.start <= step < part.piece.stop)
        if part.run is None:
            return None
        local = step - part.piece.start
        part.visits[local] += 1
        return part.run, local, f"visit {part.visits[local]}", level

    def end(self) -> None:
        """Free all features and gather the reasons of steps computed against the plan."""
        for part in self._pieces:
            if part.run is not None:
                part.run.free()
                for failure in part.run.record.failed_open:
                    self.report.add_reason(failure.reason)
        if len(self._pieces) == 1 and self._pieces[0].run is not None:
            self.report.expected_error = self._choice.expected_error(self._pieces[0].run.grid)


def _difference(x: Tensor, denoised: Tensor) -> Tensor:
    """Return ``x - denoised`` as a tensor that counts writes to it.

    Tensors made in inference mode do not count writes and would have to be copied.
    """
    if not torch.is_inference_mode_enabled():
        return x - denoised
    with torch.inference_mode(False):
        return x - denoised
