"""The tables of the pages say what the committed results say."""

import json
import re

import pytest
from benchmarks import figures
from benchmarks.rendering import RESULTS, TABLES, rows_of
from benchmarks.sweep import page as sweep

QUOTING = [
    page
    for page in figures.pages()
    if figures.MARKED.search(page.read_text()) or figures.VALUE.search(page.read_text())
]


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: str(page.relative_to(figures.ROOT)))
def test_a_quoted_table_is_that_of_its_results(page):
    text = page.read_text()
    assert text == figures.rendered(text), "run `python -m benchmarks.figures`"
    assert text.count("<!-- table: ") == text.count("<!-- /table -->") == len(figures.MARKED.findall(text))
    assert text.count("<!-- value: ") == text.count("<!-- /value -->") == len(figures.VALUE.findall(text))


def test_the_page_of_pipelines_is_that_of_its_results():
    about = json.loads((RESULTS / "sweep.json").read_text())
    rows = about.pop("rows")
    assert sweep.PAGE.read_text() == sweep.page(rows, about)
    assert all(f"`{name}`" in sweep.PAGE.read_text() for name in about["not tried"])
    ran = {row["pipeline"] for row in rows if "sites" in row}
    assert sweep.exported() <= ran | about["not tried"].keys()  # no pipeline is unknown


def test_a_changed_figure_is_noticed():
    page = figures.ROOT / "README.md"
    changed = re.sub(r"(\| Euler, that many steps \|) [\d.]+ \|", r"\1 99.9 |", page.read_text())
    assert changed != page.read_text()
    assert figures.rendered(changed) == page.read_text()


def test_a_figure_in_a_sentence_is_that_of_its_result():
    marked = "9 NFE gave <!-- value: learning | rollout, searched steps | 9 NFE, dB -->{}<!-- /value --> dB"
    (row,) = (row for row in rows_of("learning") if row["method"] == "rollout, searched steps")
    assert figures.rendered(marked.format("1.0")) == marked.format(f"{row['9 NFE, dB']:.1f}")
    with pytest.raises(KeyError):
        figures.rendered(marked.replace("rollout", "no such method"))


def test_every_table_is_quoted_and_every_result_names_its_command():
    quoted = {name for page in QUOTING for _, name, _, _ in figures.MARKED.findall(page.read_text())}
    assert quoted == set(TABLES)
    assert {name for table in TABLES.values() for name in table.results} <= set(figures.quoted_results())
    for name in figures.quoted_results():
        assert figures.command_of(name)[1] == "-m", name


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.quoted_results())
def test_every_command_of_a_result_works(name):
    found = json.loads(figures.trial(name).read_text())
    assert found["rows"]
    committed = json.loads((RESULTS / f"{name}.json").read_text()) if figures.is_made(name) else found
    assert set(found["rows"][0]) >= set(committed["rows"][0])  # what tables read is still written
    for table in TABLES.values():
        if name in table.results and all(map(figures.is_made, table.results)):
            table.make(*(found["rows"] if each == name else rows_of(each) for each in table.results))


def test_a_quoted_result_that_is_not_made_yet_has_a_command(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.rendering.RESULTS", tmp_path)
    assert figures.command_of("learned_solvers")[1:] == ["-m", "benchmarks.learned_solvers"]
    assert "learned_solvers" in figures.quoted_results()
    page = "<!-- table: learned-solvers -->\n<!-- /table -->"
    assert "Not measured yet" in figures.rendered(page)


def test_a_trial_has_the_smallest_counts():
    command = ["python", "-m", "benchmarks.learning", "--prompts", "32", "--calibration", "24", "--cfg", "3"]
    assert figures.smallest(command) == [*command[:4], "2", "--calibration", "2", "--cfg", "3"]


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    ran, interrupted = [], []
    monkeypatch.setattr(figures, "STATE", tmp_path / "build" / "figures.json")
    monkeypatch.setattr(figures, "quoted_results", lambda: ["learning", "memory", "speed"])
    monkeypatch.setattr(figures, "commit", lambda: "one commit")

    def run(command, **options):
        if "benchmarks.memory" in command and not interrupted:
            interrupted.append(command)
            raise KeyboardInterrupt
        ran.append(command[2])

    monkeypatch.setattr(figures.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        figures.run(None)
    figures.run(None)
    assert ran == ["benchmarks.learning", "benchmarks.memory", "benchmarks.speed"]
    assert set(json.loads(figures.STATE.read_text())) == {"learning", "memory", "speed"}
    assert (RESULTS / "learning.json").exists()
