"""What a run of a ComfyUI sampler computed and forecast, and its description."""

from __future__ import annotations

from dataclasses import dataclass, field

from foreseer.attach.run_record import RunRecord


@dataclass
class RunReport:
    """What one run of a sampler computed and forecast.

    Attributes:
        steps: noise levels at which the sampler begins a step.
        calls: calls of the guider's prediction.
        forward_passes: calls that were computed; each may evaluate the network several times (guidance, windows).
        between_levels: computed calls between the levels of the run, as midpoint samplers make them.
        records: one per piece of the run.
        reasons: why steps were computed against the plan.
        expected_error: expected relative error of the final latent; ``None`` without a profile that covers the run.
    """

    steps: int = 0
    calls: int = 0
    forward_passes: int = 0
    between_levels: int = 0
    records: list[RunRecord] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    expected_error: float | None = None

    @property
    def forecast(self) -> int:
        """Calls that were answered with a forecast."""
        return self.calls - self.forward_passes

    def add_reason(self, reason: str) -> None:
        """Note ``reason`` once."""
        if reason not in self.reasons:
            self.reasons.append(reason)


def describe(report: RunReport) -> str:
    """A few lines about one run.

    >>> print(describe(RunReport(steps=20, calls=20, forward_passes=8, expected_error=0.0123)))
    20 steps: 8 calls computed, 12 forecast (2.5 times fewer)
    expected error of the final latent: 1.2 %
    """
    saved = report.forecast and report.forward_passes
    times = f" ({report.calls / report.forward_passes:.1f} times fewer)" if saved else ""
    lines = [f"{report.steps} steps: {report.forward_passes} calls computed, {report.forecast} forecast{times}"]
    if report.between_levels:
        lines.append(f"{report.between_levels} calls lay between the levels of the run and were computed")
    if len(report.records) > 1:
        pieces = ", ".join(f"{record.nfe} of {record.steps}" for record in report.records)
        lines.append(f"conditions change during the run; computed steps per piece: {pieces}")
    if report.expected_error is not None:
        lines.append(f"expected error of the final latent: {100 * report.expected_error:.1f} %")
    lines += [f"computed, not forecast: {reason}" for reason in report.reasons]
    return "\n".join(lines)
