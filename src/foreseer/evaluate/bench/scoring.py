"""Measure quality on the stored samples once everything is drawn, storing each value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from foreseer.errors import in_one_line
from foreseer.evaluate.bench.result_store import BenchError, ResultStore, run_path
from foreseer.evaluate.metrics import QUALITY, Measure, MeasureContext, MissingMeasureError, Quality, StoredSample
from foreseer.evaluate.metrics.fidelity import FIDELITY

if TYPE_CHECKING:
    from foreseer.evaluate.bench.bench import Bench, Progress


@dataclass
class QualityScores:
    """Measures of quality, and the columns of all measures.

    Attributes:
        columns: columns of the table, fidelity included.
        per_prompt: by entry key and measure, one value per prompt.
        together: by entry key and measure, one value for all prompts.
    """

    columns: list[Measure] = field(default_factory=list)
    per_prompt: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    together: dict[str, dict[str, float]] = field(default_factory=dict)


def score(bench: Bench, keys: Sequence[str], reference: str, store: ResultStore, progress: Progress) -> QualityScores:
    """Take every wanted measure of quality of every sample that is stored and finite.

    Raises:
        BenchError: a value cannot be stored.
    """
    first = store.read(f"{run_path(0, reference)}.json") or {}
    video = bool(first.get("video"))
    missing = bench.incomparable or (None if bench.decode else "no pictures were made")
    scores = QualityScores()
    for measure in FIDELITY.values():
        if measure.name in bench.measures if bench.measures is not None else measure.applies(video):
            scores.columns.append(measure.column(missing))
    real = bench.real if bench.real is None else bench.real.resolve()
    context = MeasureContext("cuda" if torch.cuda.is_available() else "cpu", video, real)
    scorer = _Scoring(bench.prompts, store, reference, context)
    for measure in QUALITY.values():
        if measure.name in bench.measures if bench.measures is not None else measure.applies(video):
            reason = missing
            if reason is None:
                progress(0, len(keys), measure.title)
                try:
                    scorer.take(measure, keys, scores, lambda done, m=measure: progress(done, len(keys), m.title))
                except MissingMeasureError as error:
                    reason = str(error)
                    for values in (*scores.per_prompt.values(), *scores.together.values()):
                        values.pop(measure.name, None)  # a column is complete or missing
            scores.columns.append(measure.column(reason))
    return scores


@dataclass
class _Scoring:
    """The parts of a bench that scoring reads."""

    prompts: Sequence[str]
    store: ResultStore
    reference: str
    context: MeasureContext

    def take(
        self, measure: Quality, keys: Sequence[str], scores: QualityScores, progress: Callable[[int], None]
    ) -> None:
        """Take one measure of every entry.

        Raises:
            MissingMeasureError: it cannot be taken, with the reason.
            BenchError: a value cannot be stored.
        """
        scorer: Any = measure.load(self.context)
        for done, key in enumerate(keys):
            if key == self.reference and not measure.of_reference:
                continue
            usable = [index for index in range(len(self.prompts)) if self._usable(index, key)]
            if not usable:
                continue
            name = f"quality/{key}.{measure.name}.json"
            stored = self.store.read(name) or {}
            take = self._together if measure.of_sets else self._per_prompt
            try:
                values = take(scorer, key, usable, stored)
            except BenchError:
                raise
            except Exception as error:
                raise MissingMeasureError(in_one_line(error)) from error
            if values != stored:
                self.store.write(name, values)
            if measure.of_sets:
                scores.together.setdefault(key, {})[measure.name] = values["value"]
            else:
                by_prompt = {index: values[str(index)] for index in usable}
                scores.per_prompt.setdefault(key, {})[measure.name] = by_prompt
            progress(done + 1)

    def _per_prompt(self, scorer: Any, key: str, usable: Sequence[int], stored: dict[str, Any]) -> dict[str, Any]:
        missing = [index for index in usable if str(index) not in stored]
        return {**stored, **{str(index): scorer(self._sample(index, key)) for index in missing}}

    def _together(self, scorer: Any, key: str, usable: Sequence[int], stored: dict[str, Any]) -> dict[str, Any]:
        samples = {"prompts": list(usable), "real": str(self.context.real)}
        if stored.get("of") == samples:
            return stored
        return {"of": samples, "value": scorer([partial(self._sample, index, key) for index in usable])}

    def _usable(self, index: int, key: str) -> bool:
        name = run_path(index, key)
        content = self.store.read(f"{name}.json")
        return content is not None and content["finite"] and (self.store.folder / f"{name}.png").is_file()

    def _sample(self, index: int, key: str) -> StoredSample:
        frames, reference = (
            self.store.read_picture(f"{run_path(index, stored)}.png") for stored in (key, self.reference)
        )
        return StoredSample(frames, reference, self.prompts[index])
