"""Turn the stored runs of a bench into its results: medians of times, means of measures."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foreseer.evaluate.bench.result_store import ResultStore, entry_path, run_path
from foreseer.evaluate.bench.results import BenchResults, Row, Spread
from foreseer.evaluate.bench.scoring import QualityScores
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.metrics.fidelity import FIDELITY

if TYPE_CHECKING:
    from foreseer.evaluate.bench.bench import Bench

StoredRun = dict[str, Any]
StoredRuns = Sequence[StoredRun | None]  # one per prompt


def summarise(
    bench: Bench,
    entries: Mapping[str, Entry],
    store: ResultStore,
    errors: Mapping[str, str],
    scores: QualityScores,
    *,
    environment: Mapping[str, str],
) -> BenchResults:
    """Collect the results of a bench, the reference first.

    Args:
        bench: the settings.
        entries: entries by key, the reference first.
        store: the bench's folder.
        errors: why entries failed, by key.
        scores: measures of quality, and the columns.
        environment: versions, device and threads.
    """
    count = len(bench.prompts)
    devices = _devices(entries, store, count)
    reference = next(iter(entries))
    rows: list[Row] = []
    reference_runs: StoredRuns = []
    for key, entry in entries.items():
        runs = [store.read(f"{run_path(index, key)}.json") for index in range(count)]
        if key == reference:
            reference_runs = runs
        row = _row(entry, store.read(entry_path(key)) or {}, runs)
        row.pictures = [_picture(store, index, key) for index in range(count)]
        row.error = errors.get(key) or _not_finite(runs)
        row.per_prompt = _per_prompt(runs, scores, key, compared=key != reference)
        row.measures = {name: _mean(values) for name, values in row.per_prompt.items()}
        row.measures |= scores.together.get(key, {})
        row.published = dict(bench.published.get(entry.name, {}))
        if len(devices) > 1:
            row.latency = row.end_to_end = None
        rows.append(row)
        _relate(row, rows[0], runs, reference_runs)
    return BenchResults(
        title=bench.title,
        command=bench.command,
        environment={**environment, "date": datetime.date.today().isoformat()},
        model=bench.model,
        steps=bench.steps,
        video=bool((reference_runs[0] or {}).get("video")),
        prompts=list(bench.prompts),
        seeds=[bench.seed + index for index in range(count)],
        measures=scores.columns,
        rows=rows,
        notes=[*bench.notes, *_mixed(devices)],
    )


def _row(entry: Entry, description: StoredRun, runs: StoredRuns) -> Row:
    settings = description.get("settings", dict(entry.settings))
    row = Row(entry.name, description.get("title", entry.title), entry.budget, settings)
    measured = [run for run in runs if run is not None]
    row.steps = description.get("steps", entry.steps)
    row.latency = _spread([run["seconds"] for run in measured])
    row.end_to_end = _spread([run["end_to_end"] for run in measured])
    row.failed_open = sum(run["failed_open"] for run in measured)
    if measured and measured[0]["nfe"] is not None:
        row.nfe = statistics.mean(run["nfe"] for run in measured)
    if description.get("flops") is not None:
        row.flops = description["flops"] + description["forecast_flops"]
    row.peak_memory = description.get("peak_memory")
    row.latent_error = _latent_error(measured)
    return row


def _relate(row: Row, reference: Row, runs: StoredRuns, reference_runs: StoredRuns) -> None:
    """Fill in the figures that are relative to the reference."""
    pairs = [(run, true) for run, true in zip(runs, reference_runs, strict=True) if run and true]
    timed = [(run, true) for run, true in pairs if _place(run) == _place(true)]
    if timed and len({_place(run)[1] for run, _ in timed}) == 1:
        row.speedup = statistics.median(true["seconds"] / run["seconds"] for run, true in timed)
    if row.flops and reference.flops:
        row.flops_speedup = reference.flops / row.flops
        if row.nfe is None and reference.nfe:
            row.nfe = row.flops * reference.nfe / reference.flops
    if row.peak_memory is not None and reference.peak_memory is not None:
        row.extra_memory = row.peak_memory - reference.peak_memory


def _place(run: StoredRun) -> tuple[str, str]:
    """Host and kind of device of a run; empty for runs of earlier versions."""
    return run.get("host", ""), run.get("device", "")


def _devices(entries: Mapping[str, Entry], store: ResultStore, count: int) -> dict[str, int]:
    """The kinds of device, each with the number of prompts that ran there."""
    prompts: dict[str, set[int]] = {}
    for index in range(count):
        for key in entries:
            run = store.read(f"{run_path(index, key)}.json")
            if run is not None:
                prompts.setdefault(_place(run)[1], set()).add(index)
    return {device: len(prompts[device]) for device in sorted(prompts)}


def _mixed(devices: Mapping[str, int]) -> list[str]:
    """Why there are no times."""
    if len(devices) < 2:
        return []
    shares = ", ".join(f"{device or 'an unknown one'}: {count}" for device, count in devices.items())
    return [f"No times and speedups: the prompts ran on several kinds of device ({shares}), which do not compare."]


def _per_prompt(runs: StoredRuns, scores: QualityScores, key: str, *, compared: bool) -> dict[str, list[float | None]]:
    values: dict[str, list[float | None]] = {}
    for column in scores.columns:
        name = column.name
        if column.missing is not None:
            continue
        if name in FIDELITY:
            if compared:
                values[name] = [(run or {}).get("fidelity", {}).get(name) for run in runs]
        elif name in scores.per_prompt.get(key, {}):
            values[name] = [scores.per_prompt[key][name].get(index) for index in range(len(runs))]
    return values


def _latent_error(measured: Sequence[StoredRun]) -> dict[str, float | None]:
    """Means over prompts, for the steps at which every prompt was measured."""
    errors = [run.get("latent_error", {}) for run in measured]
    shared = [step for step in (errors[0] if errors else {}) if all(step in by_step for by_step in errors)]
    return {step: statistics.mean(by_step[step] for by_step in errors) for step in shared}


def _not_finite(runs: StoredRuns) -> str | None:
    prompts = [str(index + 1) for index, run in enumerate(runs) if run is not None and not run["finite"]]
    if not prompts:
        return None
    listed = ", ".join(prompts[:8]) + (", ..." if len(prompts) > 8 else "")
    return f"{len(prompts)} of {len(runs)} samples are not finite (prompts {listed})"


def _picture(store: ResultStore, index: int, key: str) -> str:
    name = f"{run_path(index, key)}.png"
    return name if (store.folder / name).is_file() else ""


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over prompts; ``None`` if a prompt was not measured."""
    measured = [value for value in values if value is not None]
    return statistics.fmean(measured) if measured and len(measured) == len(values) else None
