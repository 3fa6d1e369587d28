"""Results of a bench as plain data: written as JSON, read by reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from foreseer.evaluate.metrics.base import Measure


@dataclass(frozen=True)
class Spread:
    """Median and extremes over prompts of a time in seconds."""

    median: float
    low: float
    high: float


@dataclass
class Row:
    """Results of one method at one budget over all prompts; ``None`` means not measured.

    Attributes:
        method: name of the entry; ``reference`` for the run that computes every step.
        title: title in tables.
        budget: NFE asked for.
        settings: parameters of the entry.
        steps: steps of the scheduler.
        nfe: computed steps per picture; for a method that skips parts of the network, its FLOPs over those of one
            computed step.
        flops: floating-point operations of the denoiser per picture, forecasts included.
        latency: seconds of the denoising loop.
        end_to_end: seconds of the whole call, text encoders and decoder included.
        speedup: median over prompts of the reference's loop time over this method's.
        flops_speedup: the reference's FLOPs over this method's.
        peak_memory: bytes.
        extra_memory: bytes above the reference's peak.
        measures: mean over prompts, by measure.
        per_prompt: values by measure, one per prompt.
        latent_error: relative error of the sample against the reference's, by number of steps taken (as text).
        failed_open: steps computed although the plan forecasts them.
        pictures: one file per prompt, relative to the report's folder.
        error: reason why the method gave no result.
        published: the paper's figures for this row, by its column names.
    """

    method: str
    title: str
    budget: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    nfe: float | None = None
    flops: float | None = None
    latency: Spread | None = None
    end_to_end: Spread | None = None
    speedup: float | None = None
    flops_speedup: float | None = None
    peak_memory: int | None = None
    extra_memory: int | None = None
    measures: dict[str, float | None] = field(default_factory=dict)
    per_prompt: dict[str, list[float | None]] = field(default_factory=dict)
    latent_error: dict[str, float | None] = field(default_factory=dict)
    failed_open: int = 0
    pictures: list[str] = field(default_factory=list)
    error: str | None = None
    published: dict[str, float | str] = field(default_factory=dict)


@dataclass
class BenchResults:
    """Results of a bench; ``rows[0]`` is the reference.

    Attributes:
        title: heading of the report.
        command: command line that started the bench.
        environment: versions, device, threads, date.
        model: name, folder or hub id.
        steps: steps of the reference.
        video: whether samples are videos.
        prompts: the prompts.
        seeds: one per prompt.
        measures: columns of the table.
        rows: the reference first.
        notes: sentences to print under the table (a preset's caveats, random weights, ...).
    """

    title: str
    command: str
    environment: dict[str, str]
    model: str
    steps: int
    video: bool
    prompts: list[str]
    seeds: list[int]
    measures: list[Measure]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BenchResults:
        """Rebuild results from ``to_dict``."""

        def spread(value: dict[str, float] | None) -> Spread | None:
            return None if value is None else Spread(**value)

        rows = [
            Row(**{**row, "latency": spread(row["latency"]), "end_to_end": spread(row["end_to_end"])})
            for row in data["rows"]
        ]
        return cls(**{**data, "measures": [Measure(**measure) for measure in data["measures"]], "rows": rows})
