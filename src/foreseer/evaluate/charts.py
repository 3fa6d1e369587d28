"""A bench's charts: the speed-fidelity frontier, and the error along the trajectory."""

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

from foreseer.evaluate.results import BenchResults, Measure, Row

# Told apart under every common colour blindness (after Okabe and Ito), for a light and for a dark ground.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07900", "#3a97cf", "#6b6f76")
DARK = ("#4aa8e0", "#f08347", "#2cc79b", "#e08fbf", "#e6b03c", "#8fd0f5", "#a9b0b8")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))
DASHES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))
Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")
INK, RULE = "#010203", "#030201"  # stand for the page's own colours in a drawing that goes into it


def _drawing(function: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Draw with matplotlib's own settings, not the user's; words are words, a dollar sign is no formula."""

    @wraps(function)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Drawn:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "foreseer"})
            return function(*args, **kwargs)

    return drawn


@dataclass(frozen=True)
class Series:
    """How one method is drawn in every chart."""

    method: str
    title: str
    index: int

    @property
    def colour(self) -> int:
        """Its place in ``LIGHT`` and ``DARK``."""
        return self.index % len(LIGHT)

    @property
    def marker(self) -> tuple[str, str]:
        """Its marker, in matplotlib's words and as a sign."""
        return MARKERS[self.index % len(MARKERS)]

    @property
    def dash(self) -> tuple[str, str]:
        """Its line, in matplotlib's words and in those of CSS."""
        return DASHES[self.index // len(LIGHT) % len(DASHES)]


@dataclass(frozen=True)
class Axis:
    """What the frontier is drawn over; ``sign`` is 1 where more of it is faster."""

    key: str
    title: str
    value: Callable[[Row], float | None]
    sign: int


AXES = (
    Axis("nfe", "Network evaluations", lambda row: row.nfe, -1),
    Axis("flops_speedup", "FLOPs speedup", lambda row: row.flops_speedup, 1),
    Axis("speedup", "Latency speedup", lambda row: row.speedup, 1),
)


def series_of(results: BenchResults) -> list[Series]:
    """The methods that gave something, in the order of the rows; the reference is none."""
    titles: dict[str, str] = {}
    for row in results.rows:
        if row.method != "reference" and not row.error:
            titles.setdefault(row.method, row.title)
    return [Series(method, title, index) for index, (method, title) in enumerate(titles.items())]


def fidelity(results: BenchResults) -> Measure | None:
    """What the frontier shows: PSNR where it was taken, else the first measure that was."""
    ordered = sorted(results.measures, key=lambda measure: measure.name != "psnr")
    return next((one for one in ordered if any(_finite(row.measures.get(one.name)) for row in _rows(results))), None)


def axes_of(results: BenchResults) -> list[Axis]:
    """The axes that have values where fidelity has one."""
    measure = fidelity(results)
    return [] if measure is None else [axis for axis in AXES if _points(_rows(results), axis, measure)]


def draw_frontier(
    axis: Any, results: BenchResults, over: Axis, measure: Measure, *, series: Sequence[Series], ink: str, rule: str
) -> None:
    """Draw one line a method on matplotlib's ``axis``, and the best of all as a broad one behind them."""
    from matplotlib.ticker import MaxNLocator

    everything = _points(_rows(results), over, measure)
    up = 1 if measure.better == "higher" else -1
    best = _frontier(everything, over.sign, up)
    axis.plot(*zip(*best, strict=True), color=rule, linewidth=7, solid_capstyle="round", zorder=1, gid="frontier")
    for one in series:
        points = _points(sorted(_rows(results, one.method), key=lambda row: row.budget or row.nfe or 0), over, measure)
        if points:
            _line(axis, points, one)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=over.key == "nfe", steps=[1, 2, 2.5, 5, 10]))
    axis.set_xlabel(over.title)
    axis.set_ylabel(measure.title)
    _plain(axis, ink, rule)


@_drawing
def frontier_png(results: BenchResults, series: Sequence[Series]) -> bytes:
    """The frontier over every axis that has values, one panel each, with its legend."""
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
    shown = [(drawn[name], one.title) for one in series if (name := f"series-{one.index}") in drawn]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=2 * columns, frameon=False)
    return _saved(figure, "png")


@_drawing
def frontier_svg(results: BenchResults, over: Axis, series: Sequence[Series]) -> str:
    """The frontier over one axis, for a page that has the legend."""
    from matplotlib.figure import Figure

    measure = fidelity(results)
    assert measure is not None
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    draw_frontier(figure.subplots(), results, over, measure, series=series, ink=INK, rule=RULE)
    return _svg(figure, f"frontier-{over.key}", f"{measure.title} over {over.title.lower()}", series)


@_drawing
def trajectory_svgs(results: BenchResults, series: Sequence[Series]) -> list[tuple[int | None, str]]:
    """Relative error of the sample by step, one drawing a budget, all at one scale; largest budgets first."""
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
        for one in series:
            for row in rows:
                if row.method == one.method and row.budget == budget:
                    _line(axis, sorted((step, value) for step, value in _errors(row).items() if value > 0), one)
        axis.set_ylim(min(values) / 1.3, max(values) * 1.3)
        axis.set_xlim(0, results.steps * 1.03)
        axis.set_xlabel("Step")
        axis.set_ylabel("Relative error of the sample")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter("{x:g}")
        _plain(axis, INK, RULE)
        name = "the setting of each method" if budget is None else f"{budget} evaluations"
        drawings.append((budget, _svg(figure, f"trajectory-{budget}", f"Error by step at {name}", series)))
    return drawings


def _line(axis: Any, points: Sequence[tuple[float, float]], one: Series) -> None:
    axis.plot(
        *zip(*points, strict=True),
        color=LIGHT[one.colour],
        marker=one.marker[0],
        linestyle=one.dash[0],
        linewidth=1.4,
        markersize=5,
        gid=f"series-{one.index}",
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
    """A drawing to stand inside a page: in the page's colours and font, its ids its own."""
    drawing = _saved(figure, "svg").decode()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"^<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", _opening(title), drawing, count=1)
    drawing = re.sub(r"font-family: [^;\"]*;? ?", "", drawing)
    drawing = drawing.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    for place, colour in enumerate(LIGHT):
        drawing = drawing.replace(colour, f"var(--series-{place})")
    drawing = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", drawing)
    for one in series:
        drawing = drawing.replace(
            f'<g id="{name}-series-{one.index}">',
            f'<g class="series" data-method="{escape(one.method)}"><title>{escape(one.title)}</title>',
        )
    return drawing


def _opening(title: str) -> Callable[[re.Match[str]], str]:
    return lambda found: (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {found[1]} role="img" aria-label="{escape(title)}">'
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
    """The points that no other one beats in speed and fidelity, from the fastest."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-faster * point[0], -up * point[1])):
        if not best or up * y > up * best[-1][1]:
            best.append((x, y))
    return best


def _errors(row: Row) -> dict[int, float]:
    return {int(step): value for step, value in row.latent_error.items() if value is not None and _finite(value)}


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
