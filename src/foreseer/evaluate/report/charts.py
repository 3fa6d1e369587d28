"""Charts of a bench: the frontier of speed and fidelity, and the error along the trajectory."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import Any, ParamSpec, TypeVar

import numpy as np

from foreseer.evaluate.bench.results import BenchResults, Measure, Row

# Distinguishable with common colour blindness (after Okabe and Ito), on a light and on a dark background.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07900", "#3a97cf", "#6b6f76")
DARK = ("#4aa8e0", "#f08347", "#2cc79b", "#e08fbf", "#e6b03c", "#8fd0f5", "#a9b0b8")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))
DASHES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))
Given = ParamSpec("Given")
Drawing = TypeVar("Drawing")
SAME = 0.02  # values of an axis within this ratio count as equal
INK, RULE = "#010203", "#030201"  # placeholders that a page replaces by its own colours


def _drawing(function: Callable[Given, Drawing]) -> Callable[Given, Drawing]:
    """Draw with matplotlib's default settings instead of the user's, and print dollar signs literally."""

    @wraps(function)
    def with_defaults(*args: Given.args, **kwargs: Given.kwargs) -> Drawing:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "foreseer"})
            return function(*args, **kwargs)

    return with_defaults


@dataclass(frozen=True)
class Series:
    """Style of one method in every chart."""

    method: str
    title: str
    index: int

    @property
    def colour(self) -> int:
        """Index in ``LIGHT`` and ``DARK``."""
        return self.index % len(LIGHT)

    @property
    def marker(self) -> tuple[str, str]:
        """Marker, as matplotlib's name and as a character."""
        return MARKERS[self.index % len(MARKERS)]

    @property
    def dash(self) -> tuple[str, str]:
        """Line style, as matplotlib's and CSS's name."""
        return DASHES[self.index // len(LIGHT) % len(DASHES)]


@dataclass(frozen=True)
class Axis:
    """Horizontal axis of the frontier; ``sign`` is 1 if larger values are faster, else -1."""

    key: str
    title: str
    value: Callable[[Row], float | None]
    sign: int


AXES = (
    Axis("nfe", "Computed steps (NFE)", lambda row: row.nfe, -1),
    Axis("flops_speedup", "FLOPs speedup", lambda row: row.flops_speedup, 1),
    Axis("speedup", "Latency speedup", lambda row: row.speedup, 1),
)


def series_of(results: BenchResults) -> list[Series]:
    """List the methods with results in the order of the rows, without the reference."""
    titles: dict[str, str] = {}
    for row in results.rows:
        if row.method != "reference" and not row.error:
            titles.setdefault(row.method, row.title)
    return [Series(method, title, index) for index, (method, title) in enumerate(titles.items())]


def fidelity(results: BenchResults) -> Measure | None:
    """Choose the measure of the frontier: PSNR if it was taken, else the first that was."""
    ordered = sorted(results.measures, key=lambda measure: measure.name != "psnr")
    rows = _rows(results)
    return next((measure for measure in ordered if any(_finite(row.measures.get(measure.name)) for row in rows)), None)


def axes_of(results: BenchResults) -> list[Axis]:
    """List the axes that have values for rows with a fidelity, and on which these values differ.

    With one budget all methods share one NFE: such an axis is left out if another one separates the methods.
    """
    measure = fidelity(results)
    if measure is None:
        return []
    values = {axis.key: [x for x, _ in _points(_rows(results), axis, measure)] for axis in AXES}
    measured = [axis for axis in AXES if values[axis.key]]
    differing = [axis for axis in measured if max(values[axis.key]) > (1 + SAME) * min(values[axis.key])]
    return differing or measured[:1]


def draw_frontier(
    axis: Any, results: BenchResults, over: Axis, measure: Measure, *, series: Sequence[Series], ink: str, rule: str
) -> None:
    """Draw one line per method on matplotlib's ``axis``, and the frontier as a broad line behind them."""
    from matplotlib.ticker import MaxNLocator

    everything = _points(_rows(results), over, measure)
    up = 1 if measure.better == "higher" else -1
    best = _frontier(everything, over.sign, up)
    axis.plot(*zip(*best, strict=True), color=rule, linewidth=7, solid_capstyle="round", zorder=1, gid="frontier")
    for method in series:
        points = _points(
            sorted(_rows(results, method.method), key=lambda row: row.budget or row.nfe or 0), over, measure
        )
        if points:
            _line(axis, points, method)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=over.key == "nfe", steps=[1, 2, 2.5, 5, 10]))
    if len({x for x, _ in everything}) == 1:
        axis.set_xlim(everything[0][0] * 0.8, everything[0][0] * 1.2)
    axis.set_xlabel(over.title)
    axis.set_ylabel(measure.title)
    _plain(axis, ink, rule)


@_drawing
def frontier_png(results: BenchResults, series: Sequence[Series]) -> bytes:
    """Draw the frontier over every axis that has values, one panel each, with a legend."""
    from matplotlib.figure import Figure

    measure, axes = fidelity(results), axes_of(results)
    columns = max(1, len(axes))
    rows = -(-len(series) // (2 * columns))
    figure = Figure(figsize=(4.6 * columns + 0.4, 4.2 + 0.24 * rows), dpi=150, layout="constrained")
    if measure is None or not axes:
        figure.text(0.5, 0.5, "No fidelity was measured.", ha="center", va="center")
        return _saved(figure, "png")
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for panel, over in zip(panels, axes, strict=True):
        draw_frontier(panel, results, over, measure, series=series, ink="#1b1f24", rule="#e2e5e9")
        panel.label_outer()
    drawn = {str(line.get_gid()): line for panel in panels for line in panel.get_lines()}
    shown = [(drawn[name], method.title) for method in series if (name := f"series-{method.index}") in drawn]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=2 * columns, frameon=False)
    return _saved(figure, "png")


@_drawing
def frontier_svg(results: BenchResults, over: Axis, series: Sequence[Series]) -> str:
    """Draw the frontier over one axis, for a page that has the legend."""
    from matplotlib.figure import Figure

    measure = fidelity(results)
    assert measure is not None
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    draw_frontier(figure.subplots(), results, over, measure, series=series, ink=INK, rule=RULE)
    return _svg(figure, f"frontier-{over.key}", f"{measure.title} over {over.title.lower()}", series)


@_drawing
def trajectory_svgs(results: BenchResults, series: Sequence[Series]) -> list[tuple[int | None, str]]:
    """Draw the relative error of the sample by step, one drawing per budget at a common scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    rows = [row for row in _rows(results) if any(value > 0 for value in _errors(row).values())]
    budgets = sorted({row.budget for row in rows}, key=lambda budget: (budget is not None, -(budget or 0)))
    values = [value for row in rows for value in _errors(row).values() if value > 0]
    drawings = []
    for budget in budgets:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axis = figure.subplots()
        axis.set_yscale("log")
        for method in series:
            for row in rows:
                if row.method == method.method and row.budget == budget:
                    _line(axis, sorted((step, value) for step, value in _errors(row).items() if value > 0), method)
        axis.set_ylim(min(values) / 1.3, max(values) * 1.3)
        axis.set_xlim(0, results.steps * 1.03)
        axis.set_xlabel("Step")
        axis.set_ylabel("Relative error of the sample")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter("{x:g}")
        _plain(axis, INK, RULE)
        name = "the published settings" if budget is None else f"{budget} computed steps"
        drawings.append((budget, _svg(figure, f"trajectory-{budget}", f"Error by step at {name}", series)))
    return drawings


def _line(axis: Any, points: Sequence[tuple[float, float]], method: Series) -> None:
    axis.plot(
        *zip(*points, strict=True),
        color=LIGHT[method.colour],
        marker=method.marker[0],
        linestyle=method.dash[0],
        linewidth=1.4,
        markersize=5,
        gid=f"series-{method.index}",
    )


def _plain(axis: Any, ink: str, rule: str) -> None:
    axis.grid(color=rule, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.minorticks_off()
    axis.tick_params(colors=ink, length=0)
    axis.xaxis.label.set_color(ink)
    axis.yaxis.label.set_color(ink)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(rule)


def _svg(figure: Any, name: str, title: str, series: Sequence[Series]) -> str:
    """Convert a figure to SVG for a page: page colours and font, ids prefixed by ``name``."""
    drawing = _saved(figure, "svg").decode()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"^<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", _opening(title), drawing, count=1)
    drawing = re.sub(r"font-family: [^;\"]*;? ?", "", drawing)
    drawing = drawing.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    for place, colour in enumerate(LIGHT):
        drawing = drawing.replace(colour, f"var(--series-{place})")
    drawing = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", drawing)
    for method in series:
        drawing = drawing.replace(
            f'<g id="{name}-series-{method.index}">',
            f'<g class="series" data-method="{escape(method.method)}"><title>{escape(method.title)}</title>',
        )
    return drawing


def _opening(title: str) -> Callable[[re.Match[str]], str]:
    return lambda match: (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {match[1]} role="img" aria-label="{escape(title)}">'
    )


def _saved(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    options = {"transparent": True, "metadata": {"Date": None}} if kind == "svg" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _rows(results: BenchResults, method: str | None = None) -> list[Row]:
    return [
        row
        for row in results.rows
        if row.method != "reference" and not row.error and (method is None or row.method == method)
    ]


def _points(rows: Sequence[Row], over: Axis, measure: Measure) -> list[tuple[float, float]]:
    pairs = [(over.value(row), row.measures.get(measure.name)) for row in rows]
    return [(x, y) for x, y in pairs if x is not None and y is not None and _finite(x) and _finite(y)]


def _frontier(points: Sequence[tuple[float, float]], faster: int, up: int) -> list[tuple[float, float]]:
    """Select the points that no other point beats in speed and fidelity, fastest first."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-faster * point[0], -up * point[1])):
        if not best or up * y > up * best[-1][1]:
            best.append((x, y))
    return best


def _errors(row: Row) -> dict[int, float]:
    return {int(step): value for step, value in row.latent_error.items() if value is not None and _finite(value)}


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
