"""Measures of quality, taken of the stored samples once everything is drawn; each figure is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from foreseer.errors import in_one_line
from foreseer.evaluate.cells import BenchError, Cells, cell
from foreseer.evaluate.fidelity import FIDELITY
from foreseer.evaluate.quality import QUALITY, Drawn, MissingMeasureError, Quality, Setting
from foreseer.evaluate.results import Measure

if TYPE_CHECKING:
    from foreseer.evaluate.bench import Bench
    from foreseer.evaluate.engine import Progress


@dataclass
class Scores:
    """What was measured beside fidelity.

    Attributes:
        columns: of the table, fidelity included.
        each: by contender's key and measure, a figure a prompt.
        together: by contender's key and measure, one figure of all prompts.
    """

    columns: list[Measure] = field(default_factory=list)
    each: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    together: dict[str, dict[str, float]] = field(default_factory=dict)


def score(asked: Bench, keys: Sequence[str], reference: str, cells: Cells, progress: Progress) -> Scores:
    """Take every measure of quality that is shown, of every sample that was stored and is finite.

    Raises:
        BenchError: a figure cannot be stored.
    """
    first = cells.read(f"{cell(0, reference)}.json") or {}
    video = bool(first.get("video"))
    scores = Scores()
    for measure in FIDELITY.values():
        if measure.name in asked.measures if asked.measures is not None else _shown(measure, video):
            scores.columns.append(measure.column(_untaken(asked)))
    real = asked.real if asked.real is None else asked.real.resolve()
    setting = Setting("cuda" if torch.cuda.is_available() else "cpu", video, real)
    work = _Scoring(len(asked.prompts), asked.prompts, cells, reference, setting)
    for measure in QUALITY.values():
        if measure.name in asked.measures if asked.measures is not None else measure.applies(video):
            missing = _untaken(asked)
            if missing is None:
                progress(0, len(keys), measure.title)
                try:
                    work.take(measure, keys, scores, lambda done, m=measure: progress(done, len(keys), m.title))
                except MissingMeasureError as error:
                    missing = str(error)
                    for figures in (*scores.each.values(), *scores.together.values()):
                        figures.pop(measure.name, None)  # of the contenders before: a column is whole or missing
            scores.columns.append(measure.column(missing))
    return scores


def _shown(measure: Any, video: bool) -> bool:
    return measure.default and (video or not measure.temporal)


def _untaken(asked: Bench) -> str | None:
    return asked.unlike or (None if asked.decode else "no pictures were made")


@dataclass
class _Scoring:
    """What scoring needs of a bench."""

    count: int
    prompts: Sequence[str]
    cells: Cells
    reference: str
    setting: Setting

    def take(self, measure: Quality, keys: Sequence[str], scores: Scores, progress: Callable[[int], None]) -> None:
        """One measure of every contender.

        Raises:
            MissingMeasureError: it cannot be taken, with the reason.
            BenchError: a figure cannot be stored.
        """
        scorer: Any = measure.load(self.setting)
        for done, key in enumerate(keys):
            if key == self.reference and not measure.of_reference:
                continue
            usable = [index for index in range(self.count) if self._usable(index, key)]
            if not usable:
                continue
            name = f"quality/{key}.{measure.name}.json"
            known = self.cells.read(name) or {}
            try:
                found = (
                    self._together(scorer, key, usable, known)
                    if measure.of_sets
                    else self._each(scorer, key, usable, known)
                )
            except BenchError:
                raise
            except Exception as error:
                raise MissingMeasureError(in_one_line(error)) from error
            if found != known:
                self.cells.write(name, found)
            if measure.of_sets:
                scores.together.setdefault(key, {})[measure.name] = found["value"]
            else:
                figures = {index: found[str(index)] for index in usable}
                scores.each.setdefault(key, {})[measure.name] = figures
            progress(done + 1)

    def _each(self, scorer: Any, key: str, usable: Sequence[int], known: dict[str, Any]) -> dict[str, Any]:
        missing = [index for index in usable if str(index) not in known]
        return {**known, **{str(index): scorer(self._drawn(index, key)) for index in missing}}

    def _together(self, scorer: Any, key: str, usable: Sequence[int], known: dict[str, Any]) -> dict[str, Any]:
        of = {"prompts": list(usable), "real": str(self.setting.real)}
        if known.get("of") == of:
            return known
        return {"of": of, "value": scorer([partial(self._drawn, index, key) for index in usable])}

    def _usable(self, index: int, key: str) -> bool:
        content = self.cells.read(f"{cell(index, key)}.json")
        return content is not None and content["finite"] and (self.cells.folder / f"{cell(index, key)}.png").is_file()

    def _drawn(self, index: int, key: str) -> Drawn:
        frames, true = (self.cells.read_picture(f"{cell(index, one)}.png") for one in (key, self.reference))
        return Drawn(frames, true, self.prompts[index])
