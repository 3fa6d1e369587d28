"""Table or figure of a paper as data: model, settings, methods and published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from foreseer.errors import ForeseerError
from foreseer.evaluate.entries.base import Entry, PlainEntry, PolicyEntry
from foreseer.forecast import Chebyshev, Forecaster, Reuse, TaylorSeer
from foreseer.grid import Grid
from foreseer.methods import L2P_STEPS
from foreseer.pipelines import accepted_arguments
from foreseer.plan import Policy
from foreseer.schedule import Explicit, Growing, Schedule, Uniform

Kind = Literal["image", "video", "classes"]
NOT_YET: Mapping[str, str] = {
    "TeaCache": "TeaCache's rows need a threshold, which most papers leave out, and a polynomial fitted to the model: "
    "measure it with foreseer bench MODEL --methods teacache --nfe N.",
    "settings": "The settings of this row are not in the paper's text.",
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
    """The preset is unknown, its file is not a preset, or one of its methods is unavailable."""


@dataclass(frozen=True)
class UnavailableEntry(Entry):
    """Row of a paper's table that cannot be run; attaching it raises the reason.

    Attributes:
        reason: why it cannot be run.
    """

    reason: str = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[None]:
        """Raise the reason.

        Raises:
            PresetError: always, with the reason.
        """
        raise PresetError(self.reason)
        yield


@dataclass(frozen=True)
class PresetRow:
    """Row of a paper's table with exactly one of ``schedule``, ``fewer`` and ``not_yet``.

    Attributes:
        name: short and unique in the preset.
        title: title in tables.
        schedule: ``rule`` (uniform, growing, l2p) and its options.
        forecast: ``rule`` (reuse, taylorseer, chebyshev, l2p) and its options.
        site: site of the feature.
        fewer: number of steps, for step reduction.
        not_yet: key of ``NOT_YET``, the reason why the row cannot be run.
        nfe: computed steps as published.
        published: published figures, one per column of the preset; ``"-"`` for an empty cell.
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
        """Parameters, as reports show them."""
        if self.fewer is not None:
            return {"steps": self.fewer}
        if self.schedule is None or self.forecast is None:
            return {}
        return {"schedule": dict(self.schedule), "forecast": dict(self.forecast), "site": self.site}

    @property
    def needs_matrix(self) -> bool:
        """Whether the row is L2P, which needs a trained matrix."""
        return self.forecast is not None and self.forecast["rule"] == "l2p"

    def policy(self, matrix: Forecaster | None = None) -> Policy:
        """Make the row's policy.

        Raises:
            PresetError: the row has no policy, or needs a matrix that was not given.
        """
        if self.schedule is None or self.forecast is None:
            raise PresetError(f"{self.title} has no policy: it reduces steps or cannot be run.")
        if self.needs_matrix:
            if matrix is None:
                raise PresetError(MATRIX)
            return Policy(_make_rule(_SCHEDULES, self.schedule), matrix, self.site)
        return Policy(_make_rule(_SCHEDULES, self.schedule), _make_rule(_FORECASTERS, self.forecast), self.site)


@dataclass(frozen=True)
class Preset:
    """Table or figure of a paper.

    Attributes:
        name: what users type.
        title: heading of the report.
        source: paper, table, and the place of its settings.
        model: hub id.
        pipeline: diffusers' class of the pipeline.
        kind: kind of sample that the pipeline draws.
        identity: entries of the denoiser's configuration that distinguish the model from others of its class.
        random_weights: name of the architecture for ``random_pipeline``, if it can be built without weights.
        steps: steps of the reference.
        options: keyword arguments of the pipeline's call (size, frames, guidance).
        prompts: name of the paper's prompt set.
        columns: columns of the published table.
        reference: published figures of the run that computes every step.
        hardware: hardware of the paper's measurements, if it names it.
        notes: points that the paper leaves open, and how the preset settles them.
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
            raise PresetError(f"Preset {self.name!r}: unknown kind, no steps, no rows, or two rows of the same name.")
        for row in self.rows:
            ways = [
                row.schedule is not None and row.forecast is not None,
                row.fewer is not None,
                row.not_yet is not None,
            ]
            if sum(ways) != 1 or (row.not_yet is not None and row.not_yet not in NOT_YET):
                raise PresetError(
                    f"Preset {self.name!r}, row {row.name!r}: expected exactly one way to sample, or a known reason."
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
        """Published figures by row name (``reference`` for every step), then by the paper's column names."""
        rows = {row.name: self._by_column(row.published, row.nfe) for row in self.rows}
        return {"reference": self._by_column(self.reference, None), **rows}

    def entries(self, steps: int | None = None, matrix: Forecaster | None = None) -> list[Entry]:
        """Make an entry of every row except the reference; rows that cannot be run raise when attached.

        Args:
            steps: steps of the run; by default the paper's. Rules adapt to it, step reduction keeps its ratio.
            matrix: L2P's matrix, trained on the model.
        """
        return [self._entry(row, steps or self.steps, matrix) for row in self.rows]

    def apply_to(self, pipe: Any) -> dict[str, Any]:
        """Return the paper's call options that ``pipe`` accepts if it is the paper's model, else none.

        The paper's size and guidance suit its own model only; another pipeline keeps its own.
        """
        if not self.is_for(pipe):
            return {}
        accepted = accepted_arguments(pipe)
        return {name: value for name, value in self.options.items() if name in accepted}

    def is_for(self, pipe: Any) -> bool:
        """Return whether ``pipe`` is the paper's model, by its class and its denoiser's configuration."""
        if type(pipe).__name__ != self.pipeline:
            return False
        from foreseer.attach.network.denoisers import find_denoisers

        config: Any = next((module.config for module in find_denoisers(pipe).values()), {})
        return all(config.get(name) == value for name, value in self.identity.items())

    def _by_column(self, values: tuple[float | str, ...], nfe: int | None) -> dict[str, float | str]:
        pairs = zip(self.columns, values, strict=True) if values else ()
        figures = {column: value for column, value in pairs if value != "-"}
        return figures if nfe is None else {"NFE": nfe, **figures}

    def _entry(self, row: PresetRow, steps: int, matrix: Forecaster | None) -> Entry:
        if row.fewer is not None:
            fewer = max(1, round(row.fewer * steps / self.steps))
            return PlainEntry(row.name, row.title, fewer, settings={"steps": fewer})
        if row.not_yet is not None:
            return UnavailableEntry(row.name, row.title, steps, reason=NOT_YET[row.not_yet])
        try:
            policy = row.policy(matrix)
            policy.compile(Grid.uniform(steps))
        except ForeseerError as error:  # no matrix, or settings for another number of steps
            return UnavailableEntry(row.name, row.title, steps, settings=row.settings, reason=str(error))
        settings = {**row.settings, "matrix": repr(matrix)} if row.needs_matrix else row.settings
        return PolicyEntry(row.name, row.title, steps, settings=settings, policy=policy)


def _make_rule(kinds: Mapping[str, Callable[..., Any]], description: Mapping[str, Any]) -> Any:
    options = dict(description)
    rule = options.pop("rule")
    if rule not in kinds:
        raise PresetError(f"Unknown rule {rule!r}: expected one of {', '.join(kinds)}.")
    return kinds[rule](**options)
