"""A table or figure of a paper as data: model, settings, methods, and the figures that were published."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from foreseer.attach.network.denoisers import find_denoisers
from foreseer.errors import ForeseerError
from foreseer.evaluate.contender import Accelerated, Contender, Unaccelerated
from foreseer.forecast import L2P, Chebyshev, Forecaster, Reuse, TaylorSeer
from foreseer.grid import Grid
from foreseer.methods import L2P_STEPS
from foreseer.plan import Policy
from foreseer.schedule import Explicit, Growing, Schedule, Uniform

Kind = Literal["image", "video", "classes"]
NOT_YET: Mapping[str, str] = {
    "TeaCache": "TeaCache's rows need a threshold, which most texts leave out, and a polynomial of the model: the "
    "method teacache is measured in a run of its own (foreseer bench MODEL --methods teacache --nfe N).",
    "settings": "The settings of this row are not in the text that the preset was made from.",
}
MATRIX = "L2P needs a matrix trained on this model: give its weight file (--matrix FILE)."
_SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "uniform": Uniform,
    "growing": Growing,
    "l2p": lambda n: Explicit(L2P_STEPS[n], of=50),
}
_FORECASTERS: Mapping[str, Callable[..., Forecaster]] = {
    "reuse": Reuse,
    "taylorseer": TaylorSeer,
    "chebyshev": Chebyshev,
}


class PresetError(ForeseerError, ValueError):
    """There is no such preset, its file is not one, or one of its methods is not to be had."""


@dataclass(frozen=True)
class Absent(Contender):
    """A row of the paper that cannot be run: attaching it says why."""

    reason: str = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[None]:
        """Refuse.

        Raises:
            PresetError: always, with the reason.
        """
        raise PresetError(self.reason)
        yield


@dataclass(frozen=True)
class PresetRow:
    """One row of the paper's table: exactly one of a schedule, ``fewer`` and ``not_yet``.

    Attributes:
        name: short, unique in the preset.
        title: what tables print.
        schedule: ``rule`` (uniform, growing, l2p) and its options.
        forecast: ``rule`` (reuse, taylorseer, chebyshev, l2p) and its options.
        site: where the feature is taken.
        fewer: steps, for step reduction.
        not_yet: a key of ``NOT_YET``: why the row cannot be run.
        nfe: network evaluations as published.
        published: figures as published, a value a column of the preset; ``"-"`` where the paper has none.
    """

    name: str
    title: str
    schedule: Mapping[str, Any] | None = None
    forecast: Mapping[str, Any] | None = None
    site: str = "last_block"
    fewer: int | None = None
    not_yet: str | None = None
    nfe: int | None = None
    published: tuple[float | str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What reports show."""
        if self.fewer is not None:
            return {"steps": self.fewer}
        if self.schedule is None or self.forecast is None:
            return {}
        return {"schedule": dict(self.schedule), "forecast": dict(self.forecast), "site": self.site}

    @property
    def needs_matrix(self) -> bool:
        """Whether the row is L2P, which has learned weights."""
        return self.forecast is not None and self.forecast["rule"] == "l2p"

    def policy(self, matrix: L2P | None = None) -> Policy:
        """The row as a policy.

        Raises:
            PresetError: the row has none, or needs a matrix that was not given.
        """
        if self.schedule is None or self.forecast is None:
            raise PresetError(f"{self.title} is no policy.")
        if self.needs_matrix:
            if matrix is None:
                raise PresetError(MATRIX)
            return Policy(_made(_SCHEDULES, self.schedule), matrix, self.site)
        return Policy(_made(_SCHEDULES, self.schedule), _made(_FORECASTERS, self.forecast), self.site)


@dataclass(frozen=True)
class Preset:
    """A table or figure of a paper.

    Attributes:
        name: what is typed.
        title: heading of the report.
        source: paper, table, and where its settings stand.
        model: hub id.
        pipeline: diffusers' class.
        kind: what the pipeline draws.
        identity: entries of the denoiser's configuration that tell the model from smaller ones of its class.
        random_weights: name for ``random_pipeline``, where the architecture can be built without the weights.
        steps: of the reference.
        options: of the pipeline's call (size, frames, guidance).
        prompts: name of the paper's prompt set.
        columns: of the published table.
        reference: published figures of the run with every step.
        hardware: on which the paper measured, where it says so.
        notes: what the text leaves open, and how the preset reads it.
        rows: the methods, in the paper's order.
    """

    name: str
    title: str
    source: str
    model: str
    pipeline: str
    kind: Kind
    steps: int
    options: Mapping[str, Any]
    prompts: str
    rows: tuple[PresetRow, ...]
    identity: Mapping[str, Any] = field(default_factory=dict)
    random_weights: str | None = None
    columns: tuple[str, ...] = ()
    reference: tuple[float | str, ...] = ()
    hardware: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if self.kind not in get_args(Kind) or self.steps < 1 or not names or len(set(names)) != len(names):
            raise PresetError(f"Preset {self.name!r}: unknown kind, no steps, no rows, or rows of the same name.")
        for row in self.rows:
            ways = [
                row.schedule is not None and row.forecast is not None,
                row.fewer is not None,
                row.not_yet is not None,
            ]
            if sum(ways) != 1 or (row.not_yet is not None and row.not_yet not in NOT_YET):
                raise PresetError(
                    f"Preset {self.name!r}, row {row.name!r}: expected one way to sample, or a known reason."
                )
            if row.schedule is not None and not row.needs_matrix:
                row.policy()
        for name, values in (("reference", self.reference), *((row.name, row.published) for row in self.rows)):
            if values and len(values) != len(self.columns):
                raise PresetError(
                    f"Preset {self.name!r}, {name}: {len(values)} figures in {len(self.columns)} columns."
                )

    @property
    def published(self) -> dict[str, dict[str, float | str]]:
        """The published figures by row name (``reference`` for every step), each by the paper's column names."""
        found = {"reference": self._by_column(self.reference, None)}
        found.update({row.name: self._by_column(row.published, row.nfe) for row in self.rows})
        return found

    def contenders(self, steps: int | None = None, matrix: L2P | None = None) -> list[Contender]:
        """Every row but the reference, ready to run; rows that cannot be run are there too and say why when attached.

        Args:
            steps: of the run; by default the paper's. Rules adapt to it; step reduction keeps its share.
            matrix: L2P's learned weights for the model.
        """
        return [self._contender(row, steps or self.steps, matrix) for row in self.rows]

    def apply_to(self, pipe: Any) -> dict[str, Any]:
        """The paper's call options that hold for ``pipe``: all where it is the paper's model, none where it is another.

        A size or guidance that the paper chose for its model means nothing to another; there the pipeline's own hold.
        """
        if not self.is_for(pipe):
            return {}
        accepted = inspect.signature(pipe.__call__).parameters
        return {name: value for name, value in self.options.items() if name in accepted}

    def is_for(self, pipe: Any) -> bool:
        """Whether ``pipe`` is the paper's model, by its class and its denoiser's configuration."""
        if type(pipe).__name__ != self.pipeline:
            return False
        config: Any = next((module.config for module in find_denoisers(pipe).values()), {})
        return all(config.get(name) == value for name, value in self.identity.items())

    def _by_column(self, values: tuple[float | str, ...], nfe: int | None) -> dict[str, float | str]:
        found: dict[str, float | str] = {} if nfe is None else {"NFE": nfe}
        pairs = zip(self.columns, values, strict=True) if values else ()
        found.update({column: value for column, value in pairs if value != "-"})
        return found

    def _contender(self, row: PresetRow, steps: int, matrix: L2P | None) -> Contender:
        if row.fewer is not None:
            fewer = max(1, round(row.fewer * steps / self.steps))
            return Unaccelerated(row.name, row.title, fewer, settings={"steps": fewer})
        if row.not_yet is not None:
            return Absent(row.name, row.title, steps, reason=NOT_YET[row.not_yet])
        try:
            policy = row.policy(matrix)
            policy.compile(Grid.uniform(steps))
        except ForeseerError as error:  # no matrix, or settings for runs of other lengths
            return Absent(row.name, row.title, steps, settings=row.settings, reason=str(error))
        settings = {**row.settings, "matrix": repr(matrix)} if row.needs_matrix else row.settings
        return Accelerated(row.name, row.title, steps, settings=settings, policy=policy)


def _made(kinds: Mapping[str, Callable[..., Any]], given: Mapping[str, Any]) -> Any:
    options = dict(given)
    rule = options.pop("rule")
    if rule not in kinds:
        raise PresetError(f"Unknown rule {rule!r}: expected one of {', '.join(kinds)}.")
    return kinds[rule](**options)
