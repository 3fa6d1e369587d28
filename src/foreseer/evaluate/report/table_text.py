"""Table of a bench as Markdown, LaTeX and comma-separated values."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from typing import Any

import numpy as np

from foreseer.evaluate.bench.results import BenchResults, Row
from foreseer.evaluate.report.table import NOTHING, Line, Table, table_of, untaken

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # otherwise read as an option of the preceding row
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "∞": r"$\infty$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$#&])")
ROW_FIELDS = ("method", "title", "budget", "steps", "nfe", "flops")
SPREADS = ("latency", "end_to_end")
LATER_FIELDS = ("speedup", "flops_speedup", "peak_memory", "extra_memory", "failed_open")
TEXT_FIELDS = {"settings": "settings", "latent_error": "latent_error_by_step", "published": "published"}


def markdown(results: BenchResults) -> str:
    """Write the table as Markdown: best of each budget in bold, failures and missing measures below."""
    table = table_of(results)
    titles = ["Method", "Budget", *(f"{column.title} {column.arrow}".strip() for column in table.columns)]
    lines = [_markdown_row([_markdown(title) for title in titles]), "|---|" + "---:|" * (len(titles) - 1)]
    for line in table.lines:
        texts = [f"**{cell.text}**" if cell.best else cell.text for cell in line.cells]
        if line.row.error:
            texts = ["failed", *[""] * (len(texts) - 1)] if texts else []
        lines.append(_markdown_row([_markdown(line.row.title), budget_shown(line.row), *texts]))
    remarks = list(results.notes)
    remarks += [f"{title} is missing: {reason.rstrip('.')}." for title, reason in untaken(results)]
    remarks += [f"{place} failed: {error.rstrip('.')}." for place, error in _failures(table)]
    lines += ["", *(f"- {_markdown(remark)}" for remark in remarks)] if remarks else []
    return "\n".join([f"# {_markdown(results.title)}", "", *lines, "", _fenced(results.command), ""])


def latex(results: BenchResults) -> str:
    r"""Write the table as a LaTeX ``tabular`` with booktabs' rules, for ``\input``."""
    table = table_of(results)
    width = len(table.columns)
    titles = ["Method", "Budget", *(f"{column.title} {column.arrow}".strip() for column in table.columns)]
    lines = [
        f"% {_one_line(results.title)}: {_one_line(results.command)}",
        r"% In the preamble: \usepackage{booktabs} \usepackage[T1]{fontenc}",
        rf"\begin{{tabular}}{{l{'r' * (width + 1)}}}",
        r"\toprule",
        " & ".join(escape_latex(title) for title in titles) + r" \\",
        r"\midrule",
    ]
    for line in table.lines:
        lines += [r"\midrule"] if line.begins else []
        lines.append(_latex_row(line, table))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(results: BenchResults) -> str:
    """Write all rows as CSV in SI base units; missing and non-finite values are empty."""
    measures = list(
        dict.fromkeys(
            [measure.name for measure in results.measures] + [name for row in results.rows for name in row.measures]
        )
    )
    spreads = [f"{name}_{which}" for name in SPREADS for which in ("median", "low", "high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*ROW_FIELDS, *spreads, *LATER_FIELDS, *measures, "error", *TEXT_FIELDS.values()])
    for row in results.rows:
        times = [getattr(getattr(row, name), which, None) for name in SPREADS for which in ("median", "low", "high")]
        values = [*(getattr(row, name) for name in ROW_FIELDS), *times, *(getattr(row, name) for name in LATER_FIELDS)]
        values += [row.measures.get(name) for name in measures]
        texts = [json.dumps(finite(getattr(row, name)), ensure_ascii=False, default=str) for name in TEXT_FIELDS]
        writer.writerow(["" if value is None else value for value in finite(values)] + [row.error or "", *texts])
    return buffer.getvalue()


def finite(value: Any) -> Any:
    """Replace every non-finite number by ``None``, since JSON has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        return finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged, on one line."""
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def budget_shown(row: Row) -> str:
    """Format the budget for tables."""
    return NOTHING if row.budget is None else str(row.budget)


def _latex_row(line: Line, table: Table) -> str:
    texts = [rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text) for cell in line.cells]
    if line.row.error and table.columns:
        message = _one_line(line.row.error)
        short = message if len(message) <= 60 else f"{message[:57]}..."
        texts = [rf"\multicolumn{{{len(table.columns)}}}{{l}}{{failed: {escape_latex(short)}}}"]
    return " & ".join([escape_latex(line.row.title), escape_latex(budget_shown(line.row)), *texts]) + r" \\"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", _one_line(text))


def _fenced(command: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{command}\n{fence}"


def _failures(table: Table) -> list[tuple[str, str]]:
    """List each error with its method and budgets."""
    budgets_of: dict[tuple[str, str], list[str]] = {}
    for line in table.lines:
        if line.row.error:
            budgets_of.setdefault((line.row.title, line.row.error), []).append(budget_shown(line.row))
    return [(f"{title} ({', '.join(budgets)})", error) for (title, error), budgets in budgets_of.items()]


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
