"""A comparison as one self-contained HTML page, and as one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from foreseer.evaluate.compare import Comparison, Result
from foreseer.evaluate.page import as_png, data_uri, enlarged, template
from foreseer.evaluate.pixels import as_bytes
from foreseer.files.writing import write_figure


def write_html(comparison: Comparison, path: Path, heading: str, environment: dict[str, str]) -> None:
    """Write the page to ``path``: the table, and the pictures side by side, everything inside the file."""
    columns = [comparison.reference, *comparison.results]
    rows = comparison.rows()
    pictures = [
        {
            "prompt": prompt,
            "seed": comparison.seeds[index],
            "cells": [_cell(result, index, row["title"]) for result, row in zip(columns, rows, strict=True)],
        }
        for index, prompt in enumerate(comparison.prompts)
    ]
    page = template("comparison.html").render(
        heading=heading,
        steps=comparison.steps,
        rows=[{key: _shown(key, value) for key, value in row.items()} for row in rows],
        pictures=pictures,
        environment=environment,
    )
    path.write_text(page, encoding="utf-8")


def write_sheet(comparison: Comparison, path: Path) -> None:
    """Write a PNG with a row a prompt and a column a method."""
    from matplotlib.figure import Figure

    columns = [comparison.reference, *comparison.results]
    rows = comparison.rows()
    figure = Figure(figsize=(1.55 * len(columns), 1.62 * len(comparison.prompts) + 0.7), dpi=120, layout="constrained")
    axes = figure.subplots(len(comparison.prompts), len(columns), squeeze=False)
    for column, (result, row) in enumerate(zip(columns, rows, strict=True)):
        for index in range(len(comparison.prompts)):
            axis = axes[index][column]
            axis.imshow(result.images[index], interpolation="nearest")
            axis.set_axis_off()
            if index == 0:
                axis.set_title(_caption(row, result is comparison.reference), fontsize=7)
            elif column:
                axis.set_title(f"{_decibels(result.psnr[index])} dB", fontsize=6, pad=2)
    write_figure(path, figure)


def _cell(result: Result, index: int, title: str) -> dict[str, Any]:
    from PIL import Image

    return {
        "title": title,
        "source": data_uri(as_png(enlarged(Image.fromarray(as_bytes(result.images[index])[0])))),
        "psnr": _decibels(result.psnr[index]),
        "reference": math.isinf(result.psnr[index]),
    }


def _caption(row: dict[str, Any], is_reference: bool) -> str:
    if is_reference:
        return f"{row['title']}\n{row['nfe']} evaluations"
    return f"{row['title']}\n{row['nfe']} NFE, {row['speedup']:.1f}x\n{_decibels(row['psnr'])} dB"


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f}"


def _shown(key: str, value: Any) -> str:
    if key == "psnr":
        return _decibels(value)
    formats = {"seconds": ".3f", "speedup": ".2f", "realised": ".2f", "ssim": ".3f", "latent_error": ".4f"}
    return format(value, formats[key]) if key in formats else str(value)
