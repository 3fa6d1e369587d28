"""From the cells of a bench to its results: medians of times, means of measures."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foreseer.evaluate.cells import Cells, about, cell
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.fidelity import FIDELITY
from foreseer.evaluate.results import BenchResults, Row, Spread
from foreseer.evaluate.score import Scores

if TYPE_CHECKING:
    from foreseer.evaluate.bench import Bench

Content = dict[str, Any]
Contents = Sequence[Content | None]


def summarise(
    asked: Bench,
    entries: Mapping[str, Contender],
    cells: Cells,
    errors: Mapping[str, str],
    scores: Scores,
    *,
    environment: Mapping[str, str],
) -> BenchResults:
    """The results of a bench, the reference first.

    Args:
        asked: what was measured on.
        entries: contenders by key, the reference first.
        cells: of the bench.
        errors: why contenders failed, by key.
        scores: measures of quality, and the columns.
        environment: versions, device and threads.
    """
    count = len(asked.prompts)
    reference = next(iter(entries))
    true = [cells.read(f"{cell(index, reference)}.json") for index in range(count)]
    rows: list[Row] = []
    for key, one in entries.items():
        contents = true if key == reference else [cells.read(f"{cell(index, key)}.json") for index in range(count)]
        row = _row(one, cells.read(about(key)) or {}, contents)
        row.pictures = [_picture(cells, index, key) for index in range(count)]
        row.error = errors.get(key) or _not_finite(contents)
        row.per_prompt = _per_prompt(contents, scores, key, None if key == reference else asked)
        row.measures = {name: _mean(values) for name, values in row.per_prompt.items()}
        row.measures |= scores.together.get(key, {})
        row.published = dict(asked.published.get(one.name, {}))
        rows.append(row)
        _relate(row, rows[0], contents, true)
    return BenchResults(
        title=asked.title,
        command=asked.command,
        environment={**environment, "date": datetime.date.today().isoformat()},
        model=asked.model,
        steps=asked.steps,
        video=bool((true[0] or {}).get("video")),
        prompts=list(asked.prompts),
        seeds=[asked.seed + index for index in range(count)],
        measures=scores.columns,
        rows=rows,
        notes=list(asked.notes),
    )


def _row(one: Contender, known: Content, contents: Contents) -> Row:
    row = Row(one.name, known.get("title", one.title), one.budget, known.get("settings", dict(one.settings)))
    measured = [content for content in contents if content is not None]
    row.steps = known.get("steps", one.steps)
    row.latency = _spread([content["seconds"] for content in measured])
    row.end_to_end = _spread([content["end_to_end"] for content in measured])
    row.failed_open = sum(content["failed_open"] for content in measured)
    if measured and measured[0]["nfe"] is not None:
        row.nfe = statistics.mean(content["nfe"] for content in measured)
    if known.get("flops") is not None:
        row.flops = known["flops"] + known["forecast_flops"]
    row.peak_memory = known.get("peak_memory")
    row.latent_error = _latent_error(measured)
    return row


def _relate(row: Row, reference: Row, contents: Contents, true: Contents) -> None:
    """Fill in what is relative to the reference."""
    pairs = [(mine, theirs) for mine, theirs in zip(contents, true, strict=True) if mine and theirs]
    if pairs:
        row.speedup = statistics.median(theirs["seconds"] / mine["seconds"] for mine, theirs in pairs)
    if row.flops and reference.flops:
        row.flops_speedup = reference.flops / row.flops
        if row.nfe is None and reference.nfe:
            row.nfe = row.flops * reference.nfe / reference.flops
    if row.peak_memory is not None and reference.peak_memory is not None:
        row.extra_memory = row.peak_memory - reference.peak_memory


def _per_prompt(contents: Contents, scores: Scores, key: str, compared: Bench | None) -> dict[str, list[float | None]]:
    figures: dict[str, list[float | None]] = {}
    for column in scores.columns:
        name = column.name
        if column.missing is not None:
            continue
        if name in FIDELITY:
            if compared is not None:
                figures[name] = [(content or {}).get("fidelity", {}).get(name) for content in contents]
        elif name in scores.each.get(key, {}):
            figures[name] = [scores.each[key][name].get(index) for index in range(len(contents))]
    return figures


def _latent_error(measured: Sequence[Content]) -> dict[str, float | None]:
    """Means over prompts, of the steps at which every prompt was measured."""
    errors = [content.get("latent_error", {}) for content in measured]
    shared = [step for step in (errors[0] if errors else {}) if all(step in one for one in errors)]
    return {step: statistics.mean(one[step] for one in errors) for step in shared}


def _not_finite(contents: Contents) -> str | None:
    where = [str(index + 1) for index, content in enumerate(contents) if content is not None and not content["finite"]]
    if not where:
        return None
    shown = ", ".join(where[:8]) + (", ..." if len(where) > 8 else "")
    return f"{len(where)} of {len(contents)} samples are not finite (prompts {shown})"


def _picture(cells: Cells, index: int, key: str) -> str:
    name = f"{cell(index, key)}.png"
    return name if (cells.folder / name).is_file() else ""


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean over prompts; of nothing where one is missing."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
