"""Report of a bench: a self-contained page, and its figures as JSON, CSV, Markdown, LaTeX and PNG."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreseer.evaluate.bench.results import BenchResults, Row
from foreseer.evaluate.report.charts import (
    DARK,
    LIGHT,
    axes_of,
    fidelity,
    frontier_png,
    frontier_svg,
    series_of,
    trajectory_svgs,
)
from foreseer.evaluate.report.page import LARGEST_SIDE, Inlined, inline_file, template
from foreseer.evaluate.report.sheet import MOST_COLUMNS, write_sheet
from foreseer.evaluate.report.table import NOTHING, Column, Table, table_of, untaken
from foreseer.evaluate.report.table_text import budget_shown, comma_separated, finite, latex, markdown
from foreseer.files import write_atomically

MOST_PROMPTS = 8
MOST_PICTURE_BYTES = 32_000_000  # of all pictures in the page
SMALL_PICTURE = 192  # pixels; pictures up to this size are enlarged with sharp edges
# Papers' names of our columns, by key, where they differ. A "PSNR (uint8)" is not the true PSNR.
ALIASES = {"speedup": "latency speedup", "peak_memory": "memory", "psnr_uint8_wrapped": "psnr uint8"}
UNITS = {"s", "ms", "db", "t", "mb", "gb", "mib", "gib", "x"}


def write_report(results: BenchResults, folder: Path) -> dict[str, Path]:
    """Write the report into ``folder``, which holds the rows' pictures; each file is replaced atomically.

    Files that need no other package are written first.

    Args:
        results: results of the bench.
        folder: created if it is missing.

    Returns:
        Paths by kind: json, csv, markdown, latex, frontier, page.

    Raises:
        OSError: the folder cannot be written to.
        ModuleNotFoundError: matplotlib, jinja2 or pillow is missing (the extra ``report``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "json": ("results.json", as_json),
        "csv": ("results.csv", comma_separated),
        "markdown": ("table.md", markdown),
        "latex": ("table.tex", latex),
        "frontier": ("frontier.png", lambda results: frontier_png(results, series_of(results))),
        "page": ("report.html", lambda results: page(results, folder)),
    }
    paths = {}
    for kind, (name, make) in makers.items():
        content = make(results)
        data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        write_atomically(folder / name, data)
        paths[kind] = folder / name
    return paths


def write_demo(results: BenchResults, pictures: Path, folder: Path, *, everything: bool = False) -> dict[str, Path]:
    """Write the page, one sheet of pictures and the figures of the demo.

    Args:
        results: results of the demo's bench.
        pictures: folder of the rows' pictures.
        folder: folder to write to, created if it is missing.
        everything: whether the sheet shows every method.

    Returns:
        Paths by kind: page, picture, json.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"page": folder / "demo.html", "picture": folder / "demo.png", "json": folder / "demo.json"}
    write_atomically(paths["json"], as_json(results).encode())
    write_atomically(paths["page"], page(results, pictures).encode("utf-8", "replace"))
    write_sheet(results, pictures, paths["picture"], None if everything else MOST_COLUMNS)
    return paths


def as_json(results: BenchResults) -> str:
    """Encode the results as JSON for ``BenchResults.from_dict``; non-finite numbers become null."""
    return json.dumps(finite(results.to_dict()), indent=1, allow_nan=False, ensure_ascii=False, default=str) + "\n"


def page(results: BenchResults, folder: Path) -> str:
    """Render the self-contained page."""
    table = table_of(results)
    column_keys = {column.key for column in table.columns}
    series = series_of(results)
    pictures = _pictures(results, folder)
    return template("bench.html").render(
        results=results,
        heading=results.title,
        table=table,
        budgets=list(dict.fromkeys(budget_shown(line.row) for line in table.lines if not line.reference)),
        untaken=untaken(results),
        sources=[
            (column.title, column.source) for column in results.measures if column.source and column.name in column_keys
        ],
        series=series,
        palettes={"light": LIGHT, "dark": DARK},
        fidelity=fidelity(results),
        frontiers=[(axis, frontier_svg(results, axis, series)) for axis in axes_of(results)],
        trajectories=trajectory_svgs(results, series),
        published=_published(table),
        pictures=pictures,
        picture_note=_picture_note(results, pictures),
        budget_shown=budget_shown,
        settings_shown=_settings_shown,
    )


@dataclass(frozen=True)
class _Picture:
    """Picture of one prompt by one row."""

    row: Row
    inlined: Inlined
    figures: str

    @property
    def small(self) -> bool:
        """Whether it is enlarged with sharp edges."""
        return max(self.inlined.width, self.inlined.height) <= SMALL_PICTURE


@dataclass(frozen=True)
class _Prompt:
    """All pictures of one prompt."""

    text: str
    seed: int | None
    pictures: list[_Picture]


def _pictures(results: BenchResults, folder: Path) -> list[_Prompt]:
    """Inline the pictures of as many prompts as a page can hold, at least one."""
    table = table_of(results)
    columns = {column.key: column for column in table.columns}
    rows = [line.row for line in table.lines]
    shown: list[_Prompt] = []
    total = 0
    for index, text in enumerate(results.prompts[:MOST_PROMPTS]):
        cells = [
            _Picture(row, inline_file(folder, row.pictures[index]), _figures(results, row, index, columns))
            for row in rows
            if index < len(row.pictures) and row.pictures[index]
        ]
        total += sum(len(cell.inlined.source or "") for cell in cells)
        if shown and total > MOST_PICTURE_BYTES:
            break
        if cells:
            shown.append(_Prompt(text, results.seeds[index] if index < len(results.seeds) else None, cells))
    return shown


def _figures(results: BenchResults, row: Row, index: int, columns: dict[str, Column]) -> str:
    """Format the measures of one picture: ``PSNR 31.20 dB · SSIM 0.9812``."""
    texts = []
    for measure in results.measures:
        values = row.per_prompt.get(measure.name, [])
        value = values[index] if index < len(values) else None
        if value is None or math.isnan(value) or measure.name not in columns or row.method == "reference":
            continue
        title, _, unit = measure.title.partition(", ")
        texts.append(f"{title} {columns[measure.name].shown(value)} {unit}".strip())
    return " · ".join(texts)


def _picture_note(results: BenchResults, pictures: list[_Prompt]) -> str:
    """Say which pictures the page leaves out or compresses."""
    sentences = []
    if len(pictures) < len(results.prompts):
        sentences.append(
            f"{len(pictures)} of {len(results.prompts)} prompts are shown; the figures are means over all prompts."
        )
    if any(picture.inlined.shrunk for prompt in pictures for picture in prompt.pictures):
        sentences.append(
            f"Pictures larger than {LARGEST_SIDE} pixels or half a megabyte are shrunk and compressed here; "
            "the figures were measured on the originals."
        )
    return " ".join(sentences)


def _published(table: Table) -> dict[str, Any] | None:
    """Pair the paper's figures with ours by column; ``None`` without published figures."""
    lines = [line for line in table.lines if line.row.published]
    names = list(dict.fromkeys(name for line in lines for name in line.row.published))
    if not names:
        return None
    ours = {name: _our_column(name, table.columns) for name in names}
    rows = []
    for line in lines:
        texts = {cell.column.key: cell.text for cell in line.cells}
        cells = []
        for name in names:
            column = ours[name]
            theirs = line.row.published.get(name)
            cells.append(NOTHING if theirs is None else str(theirs))
            if column is not None:
                cells.append(texts[column.key] if not line.row.error else "failed")
        rows.append((line.row, cells))
    return {"heads": [(name, ours[name], _ours(name, ours[name])) for name in names], "rows": rows}


def _our_column(name: str, columns: list[Column]) -> Column | None:
    """Find our column for a paper's column."""
    plain_name = _plain(name)
    for column in columns:
        if plain_name in (_plain(column.key), _plain(column.title), ALIASES.get(column.key)):
            return column
    return None


def _ours(name: str, column: Column | None) -> str:
    """Head our figures, naming our column if its title differs from the paper's."""
    if column is None:
        return ""
    same = _plain(name) in (_plain(column.title), ALIASES.get(column.key))
    return "here" if same and column.scale == 1 else f"here ({column.title})"


def _plain(name: str) -> str:
    """Reduce a title to lower-case letters and digits, without units."""
    parts = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return " ".join(part for part in parts if part not in UNITS)


def _settings_shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())
