"""What a bench measured, as plain data: written as JSON, read by reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Spread:
    """Median and extremes of a time in seconds over prompts."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """A measure of fidelity or quality, a column of the table.

    Attributes:
        name: key, such as ``psnr``.
        title: what tables print, with the unit.
        better: which way is better.
        missing: why it could not be taken; ``None`` where it was.
        source: package and version that computed it.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    missing: str | None = None
    source: str = ""


@dataclass
class Row:
    """One method at one budget, over all prompts. ``None`` stands for what was not or could not be measured.

    Attributes:
        method: the contender's name; ``reference`` for every step computed.
        title: what tables print.
        budget: evaluations asked for.
        settings: the contender's parameters.
        steps: steps of the scheduler.
        nfe: network evaluations a picture (all branches of a step count once); where the method skips parts
            of the network, its FLOPs over those of one evaluation.
        flops: floating-point operations of the denoiser a picture, forecasts counted.
        latency: seconds of the denoising loop.
        end_to_end: seconds of the whole call (text encoders and decoder included).
        speedup: median over prompts of the reference's loop time over this one's.
        flops_speedup: the reference's FLOPs over this one's.
        peak_memory: bytes.
        extra_memory: bytes above the reference's peak.
        measures: mean over prompts, by measure name.
        per_prompt: the same, a list entry a prompt.
        latent_error: relative error of the sample against the reference's, by step (as text) after which it was taken.
        failed_open: steps computed against the plan.
        pictures: file a prompt, relative to the report's folder.
        error: why the method gave nothing.
        published: figures of the paper at this row, by its own column names.
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
    """A bench's outcome; ``rows[0]`` is the reference.

    Attributes:
        title: heading of the report.
        command: what was typed.
        environment: versions, device, threads, date.
        model: name, folder or hub id.
        steps: of the reference.
        video: whether samples are videos.
        prompts: what was drawn.
        seeds: one a prompt.
        measures: the columns.
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
        """The same as plain dictionaries, lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BenchResults:
        """The inverse of ``to_dict``."""

        def spread(value: dict[str, float] | None) -> Spread | None:
            return None if value is None else Spread(**value)

        rows = [
            Row(**{**row, "latency": spread(row["latency"]), "end_to_end": spread(row["end_to_end"])})
            for row in data["rows"]
        ]
        return cls(**{**data, "measures": [Measure(**one) for one in data["measures"]], "rows": rows})
