"""The tool that tries compositions, on a few cells; and the page is that of its results."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.compositions import cell_page, with_calls, with_compile
from benchmarks.compositions.cell_trial import try_cell
from benchmarks.compositions.composed import Cell, Composed, NotHereError
from benchmarks.forked import rows_of, try_each
from benchmarks.rendering import RESULTS
from benchmarks.sweep import trial


def cell(**changes: Any) -> Cell:
    (composition,) = (each for each in with_calls.COMPOSITIONS if each.name == "callback that changes the latents")
    return Cell(replace(composition, **changes), "flux")


def test_the_page_of_compositions_is_that_of_its_results() -> None:
    about = json.loads((RESULTS / "compositions.json").read_text())
    rows = about.pop("rows")
    assert cell_page.PAGE.read_text() == cell_page.page(rows, about)
    assert len(rows) == len({row["cell"] for row in rows}) > 150


def test_a_composition_that_works() -> None:
    seen = try_cell(cell(sites=("output", "last_block")))
    output, block = seen["sites"]["output"], seen["sites"]["last_block"]
    assert seen["while attached"] == {site: seen["sites"][site]["outcome"] for site in seen["sites"]}
    assert (output["forward passes"], output["calls"], output["layers run later"]) == (4, 8, 0.5)
    assert 0.5 < block["layers run later"] < block["layers run"]
    assert seen["distance from bare"] > 0
    assert cell_page._all_columns(seen, {})[:4] == ["works"] * 4


def test_other_bits_and_computed_steps_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_gradients(built: Composed) -> None:
        def callback(_: Any, step: int, __: Any, kept: Any) -> Any:
            torch.set_grad_enabled(step >= 3)
            return kept

        built.give(callback_on_step_end=callback)

    seen = try_cell(cell(change=with_gradients, sites=("output",)))
    assert cell_page._columns(seen, {})[0] == "fails open (1): 6 of 8 passes"
    every_second = partial(trial.policy, interval=2)
    monkeypatch.setattr(trial, "policy", lambda site, _: every_second(site))
    assert try_cell(cell(sites=("output",)))["sites"]["output"]["outcome"] == "other bits"


@pytest.mark.slow
def test_runs_of_compiled_code_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, _: graph.forward)
    seen = try_cell(cell(change=with_compile.in_place, sites=("output",)))
    output = seen["sites"]["output"]
    assert seen["while attached"] == {"output": output["outcome"]} == {"output": "as planned"}
    assert [output[name] for name in ("forward passes", "forward passes later", "layers run later")] == [4, 4, 0.5]


def test_what_cannot_be_made_is_not_here() -> None:
    def change(_: Composed) -> None:
        raise NotHereError("it needs a GPU")

    seen = try_cell(cell(change=change))
    assert (seen["outcome"], seen["reason"]) == ("not here", "it needs a GPU")


def test_trials_resume_and_end_at_their_limits(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    trials = [
        ({"cell": "good"}, lambda: {"cell": "good", "outcome": "as planned"}),
        ({"cell": "ended"}, lambda: os._exit(3)),
        ({"cell": "endless"}, lambda: sum(iter(int, 1))),
        ({"cell": "large"}, lambda: {"cell": "large", "outcome": str(len(bytearray(4 << 30)))}),
    ]
    try_each(trials[:1], "cell", lines, 1, 2)
    try_each(trials, "cell", lines, 1, 2)
    assert len(lines.read_text().splitlines()) == 4
    outcomes = {row["cell"]: row["outcome"] for row in rows_of(lines, "cell")}
    assert outcomes == {"good": "as planned", "ended": "died", "endless": "time limit", "large": "memory limit"}
