"""Pictures of a bench side by side as one PNG, each with its PSNR and difference map."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.evaluate.bench.results import BenchResults, Row
from foreseer.files.writing import write_figure

MOST_COLUMNS = 7
AMPLIFIED = 8  # factor of the difference maps
TITLE_WIDTH = 20  # characters per line


def write_sheet(results: BenchResults, folder: Path, path: Path, most_columns: int | None = MOST_COLUMNS) -> None:
    """Write a picture row and a difference row per prompt, and one column per method, the reference first.

    The header of a column holds NFE, speedup and mean PSNR; each picture carries its own PSNR.

    Args:
        results: results of a bench of pictures.
        folder: folder of the rows' pictures.
        path: the PNG to write.
        most_columns: largest number of columns; ``None`` for all methods.

    Raises:
        FormatError: the suffix of ``path`` is not a picture format.
        OSError: a picture cannot be read, or ``path`` cannot be written.
    """
    from matplotlib.figure import Figure

    rows = [row for row in results.rows if not row.error and all(row.pictures)][:most_columns]
    count = len(results.prompts)
    height = 3.0 * count + 0.6
    figure = Figure(figsize=(1.6 * len(rows), height), dpi=120, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.01, w_pad=0.02, hspace=0.01, wspace=0.02)  # pyright: ignore
    axes = figure.subplots(2 * count, len(rows), squeeze=False)
    for index, prompt in enumerate(results.prompts):
        reference = _pixels(folder / rows[0].pictures[index])
        for column, row in enumerate(rows):
            above, below = axes[2 * index][column], axes[2 * index + 1][column]
            for axis in (above, below):
                axis.set_axis_off()
            pixels = _pixels(folder / row.pictures[index])
            above.imshow(pixels, interpolation="nearest")
            header = f"{_header(row)}\n" if index == 0 else ""
            above.set_title(header + _own_figure(row, index), fontsize=7, pad=2)
            if column:
                difference = np.abs(pixels.astype(float) - reference) * AMPLIFIED
                below.imshow(np.clip(difference, 0, 255).astype(np.uint8), interpolation="nearest")
            else:
                text = f"{textwrap.fill(prompt, 18)}\n\n{AMPLIFIED} times the difference:"
                below.text(0.5, 0.5, text, fontsize=6.5, ha="center", va="center", transform=below.transAxes)
    write_figure(path, figure)


def _pixels(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _header(row: Row) -> str:
    title = textwrap.fill(row.title, TITLE_WIDTH)
    nfe = "-" if row.nfe is None else f"{row.nfe:.3g}"
    if row.method == "reference":
        return f"{title}\n{nfe} NFE\n"
    speedup = "" if row.speedup is None else f", {row.speedup:.1f}x"
    return f"{title}\n{nfe} NFE{speedup}\nmean {_decibels(row.measures.get('psnr'))}"


def _own_figure(row: Row, index: int) -> str:
    values = row.per_prompt.get("psnr", [])
    return _decibels(values[index]) if index < len(values) else ""


def _decibels(value: float | None) -> str:
    return "-" if value is None else "equal" if math.isinf(value) else f"{value:.1f} dB"
