"""A bench's figures as JSON, CSV, Markdown and LaTeX, read back."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from foreseer.evaluate.bench.results import BenchResults, Spread
from foreseer.evaluate.report.bench_report import as_json, write_report
from foreseer.evaluate.report.table import table_of
from foreseer.evaluate.report.table_text import comma_separated, escape_latex, latex, markdown


def test_all_files_are_written_and_nothing_else(results, folder):
    before = set(folder.iterdir())
    paths = write_report(results, folder)
    assert {kind: path.name for kind, path in paths.items()} == {
        "json": "results.json",
        "csv": "results.csv",
        "markdown": "table.md",
        "latex": "table.tex",
        "frontier": "frontier.png",
        "page": "report.html",
    }
    assert set(folder.iterdir()) - before == set(paths.values())
    with Image.open(paths["frontier"]) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_the_report_is_the_same_when_written_again(results, folder):
    first = {kind: path.read_bytes() for kind, path in write_report(results, folder).items()}
    second = {kind: path.read_bytes() for kind, path in write_report(results, folder).items()}
    assert first == second


def test_json_round_trips(results, folder):
    results.rows[0].measures = {"psnr": None, "ssim": 1.0}
    read = BenchResults.from_dict(json.loads(write_report(results, folder)["json"].read_text(encoding="utf-8")))
    assert read == results


def test_json_writes_null_for_non_finite_numbers(results):
    results.rows[1].measures["psnr"] = math.nan
    results.rows[2].latent_error["10"] = -math.inf
    results.rows[2].measures["ssim"] = np.float32(0.5)
    text = as_json(results)
    read = BenchResults.from_dict(json.loads(text, parse_constant=pytest.fail))
    assert read.rows[0].measures["psnr"] is None
    assert read.rows[1].measures["psnr"] is None
    assert read.rows[2].latent_error["10"] is None
    assert read.rows[2].measures["ssim"] == 0.5


def test_a_report_can_be_made_from_the_json_of_another(results, folder, tmp_path_factory):
    paths = write_report(results, folder)
    read = BenchResults.from_dict(json.loads(paths["json"].read_text(encoding="utf-8")))
    again = write_report(read, tmp_path_factory.mktemp("again"))
    assert again["json"].read_text(encoding="utf-8") == paths["json"].read_text(encoding="utf-8")


def test_an_interrupted_write_leaves_the_old_file(results, folder, monkeypatch):
    old = write_report(results, folder)["json"].read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(results, title="new"), folder)
    assert (folder / "results.json").read_bytes() == old
    assert not list(folder.glob(".results*"))


def test_csv_holds_every_row_in_base_units(results):
    read = list(csv.DictReader(io.StringIO(comma_separated(results))))
    assert len(read) == len(results.rows)
    assert read[0]["psnr"] == ""  # infinite
    for line, one in zip(read[1:-1], results.rows[1:-1], strict=True):
        assert (line["method"], int(line["budget"])) == (one.method, one.budget)
        assert float(line["psnr"]) == one.measures["psnr"]
        assert float(line["latency_median"]) == one.latency.median
        assert float(line["end_to_end_high"]) == one.end_to_end.high
        assert float(line["flops"]) == one.flops
        assert {int(step): value for step, value in json.loads(line["latent_error_by_step"]).items()} == {
            int(step): value for step, value in one.latent_error.items()
        }
    assert read[-1]["error"] == results.rows[-1].error
    assert read[-1]["nfe"] == read[-1]["latency_low"] == read[-1]["lpips"] == ""
    assert json.loads(read[1]["published"])["Latency speedup"] == "3.47x"


def cells(line):
    """The cells of a LaTeX row: the text between unescaped ampersands."""
    return re.split(r"(?<!\\)&", line.removesuffix(r"\\"))


def test_latex_is_a_booktabs_table_with_as_many_cells_in_every_row(results):
    text = latex(results)
    lines = text.splitlines()
    (opening,) = [line for line in lines if line.startswith(r"\begin{tabular}")]
    width = len(opening.removeprefix(r"\begin{tabular}{").rstrip("}"))
    assert [line for line in lines if line in (r"\toprule", r"\bottomrule", r"\end{tabular}")] == [
        r"\toprule",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + len(results.rows)
    for line in rows:
        spanned = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d+)\}", line))
        assert len(cells(line)) + spanned == width
    assert r"\textbf{42.12}" in text or r"\textbf{42.13}" in text  # the best PSNR at 12
    assert lines.count(r"\midrule") == 3  # head, 12, 6
    (failed,) = [line for line in rows if "A peer" in line]
    assert r"\textless{}b\textgreater{}blocks" in failed
    assert r"100\% \& more are \$missing\_" in failed


def test_latex_escapes_every_special_character():
    assert escape_latex("\\&%$#_{}~^") == (r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}")
    assert escape_latex("two\nlines\x07") == "two lines"
    assert escape_latex("[5] *") == "{[}5] {*}"  # an option, or a star, of the row before


def test_a_comment_in_latex_stays_on_its_line(results):
    text = latex(replace(results, command="first\n\\input{secret}", title="a\rb"))
    assert not [line for line in text.splitlines() if line.startswith(r"\input")]


def test_markdown_rows_have_equal_cells_and_missing_measures_are_listed(results):
    results.rows[1].title = "Order | two *stars*\nnext"
    text = markdown(results)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(results.rows)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert r"Order \| two \*stars\* next" in text
    assert "LPIPS is missing: the package \\<lpips\\> is not installed." in text
    assert "A peer (12) failed: ValueError" in text
    assert "**42.12**" in text or "**42.13**" in text
    assert results.command in text


def test_rows_are_grouped_by_budget_the_largest_first_and_the_reference_on_top(results):
    table = table_of(results)
    assert [line.row.budget for line in table.lines] == [None, 12, 12, 12, 12, 6, 6, 6]
    assert [line.begins for line in table.lines] == [False, True, False, False, False, True, False, False]
    assert table.lines[0].reference


def test_only_columns_with_a_value_are_shown_each_in_a_fitting_unit(results):
    titles = [column.title for column in table_of(results).columns]
    assert titles == [
        "NFE",
        "Steps",
        "Denoising, s",
        "Whole call, s",
        "Speedup",
        "TFLOPs",
        "FLOPs speedup",
        "PSNR, dB",
        "SSIM",
    ]
    for one in results.rows:
        one.latency = one.latency and Spread(*(value / 1000 for value in (3.0, 2.0, 4.0)))
        one.extra_memory = 2_500_000
    columns = {column.key: column for column in table_of(results).columns}
    assert columns["latency"].title == "Denoising, ms"
    assert columns["latency"].shown(0.003) == "3.000"
    assert columns["extra_memory"].title == "Extra memory, MB"
    assert columns["extra_memory"].shown(-1e6) == "-1.000"


def marked(results):
    """The methods marked as best, by budget and column."""
    return {
        (line.row.budget, cell.column.key): line.row.method
        for line in table_of(results).lines
        for cell in line.cells
        if cell.best
    }


def test_the_best_of_each_budget_is_marked_in_the_better_direction(results):
    for row in results.rows[1:-1]:
        for name in ("latency", "end_to_end"):
            median = getattr(row, name).median
            setattr(row, name, Spread(median, median, median))
    keys = ("latency", "end_to_end", "speedup", "psnr", "ssim")
    assert marked(results) == {(budget, key): "learned" for budget in (6, 12) for key in keys}
    results.rows[1].latency = Spread(0.5, 0.5, 0.5)
    assert marked(results)[6, "latency"] == "taylor"


def test_differences_within_the_noise_are_not_marked(results):
    assert {key for _, key in marked(results)} == {"psnr", "ssim"}  # the times of all prompts overlap
    learned, taylor = (next(row for row in results.rows if row.method == name) for name in ("learned", "taylor"))
    for row in results.rows:
        row.measures, row.per_prompt = {}, {}
    for row, values in ((learned, [30.0, 34.0, 38.0]), (taylor, [31.0, 32.0, 38.0])):
        row.per_prompt = {"psnr": values}
        row.measures = {"psnr": sum(values) / 3}
    assert marked(results) == {}  # means of 34.0 and 33.7 over three prompts that disagree
    taylor.per_prompt, taylor.measures = {"psnr": [28.0, 32.1, 36.0]}, {"psnr": 32.03}
    assert marked(results) == {(6, "psnr"): "learned"}


def test_equal_and_unknown_values_are_not_the_best(results):
    for one in results.rows:
        one.speedup = 2.0
        one.measures = {"psnr": math.nan if one.method == "reuse" else 30.0}
    cells_ = [cell for line in table_of(results).lines for cell in line.cells if cell.column.key in ("speedup", "psnr")]
    assert not any(cell.best for cell in cells_)
    assert {cell.text for cell in cells_ if cell.value is not None and math.isnan(cell.value)} == {"–"}


def test_figures_are_written_even_where_the_page_cannot_be(results, tmp_path):
    (tmp_path / "in.json").write_text(as_json(results), encoding="utf-8")
    program = (
        "import json, sys, pathlib; sys.modules['matplotlib'] = sys.modules['jinja2'] = None\n"
        "from foreseer.evaluate.report.bench_report import write_report, BenchResults\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "results = BenchResults.from_dict(json.loads((folder / 'in.json').read_text(encoding='utf-8')))\n"
        "try:\n    write_report(results, folder / 'out')\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "matplotlib" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "results.csv",
        "table.md",
        "table.tex",
    }
