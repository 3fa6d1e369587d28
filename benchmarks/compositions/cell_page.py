"""Writes ``results/compositions.json`` and the page of compositions."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.sweep.page import outcome_cell
from foreseer.evaluate.sampling.environment import environment, version_of

Row = dict[str, Any]

PAGE = Path(__file__).parents[2] / "docs" / "models" / "compositions.md"
PACKAGES = ("peft", "accelerate", "torchao", "bitsandbytes", "gguf")
NOT_RUN = ("not here", "time limit", "memory limit", "died", "no steps", "not repeatable")
SCHEDULERS = "Schedulers"
SCHEDULER_COLUMNS = ("output", "learned rows", "put in while attached")
COLUMNS = ("output", "last block", "modules", "learned rows", "put in while attached", "layers run")
HEAD = """# Compositions

Adapters, quantisation, compilation, offload and more on tiny pipelines with random weights, with Foreseer attached: on
a CPU, 8 steps, every second one computed. Run on {date}: diffusers {diffusers}, torch {torch}, {packages}.

{summary}

- *works*: a plan that computes every step gives the bits of the composition without Foreseer; a plan that computes half
  of the steps forecasts the others, and repeated runs give the bits of a fresh attachment.
- *fails open*, *more than planned*: steps were computed against the plan; the record gives the reason, and the table
  what still ran.
- *refused*: attaching or calibrating raised an error that names the remedy.
- *not here*, *not accepted*: the composition could not be made, does not run without Foreseer, or was not tried.
- *learned rows*: `fs.calibrate` with the same call, then a run with 4 computed steps.
- *put in while attached*: the next runs equal those of a composition made before attaching, at each site.
- *layers run*: the share of linear and convolution layers (under torch.compile: of compiled graphs) that still ran, at
  the last block / at the modules. At the output it is half.

"""


def write_page(rows: list[Row], cells: list[Row]) -> None:
    """Write both files; ``rows`` of cells that no longer exist are left out."""
    by_cell = {row["cell"]: row for row in rows}
    waiting = {"outcome": "not here", "reason": "not run yet"}
    packages = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    about = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.compositions",
        "environment": environment(),
        "packages": packages,
    }
    kept = [_short(by_cell.get(cell["cell"], {**cell, **waiting})) for cell in cells]
    text = ",\n".join(json.dumps(row) for row in kept)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compositions.json").write_text(json.dumps(about)[:-1] + f', "rows": [\n{text}\n]}}\n')
    PAGE.write_text(page(kept, about))


def _short(row: Row) -> Row:
    """What is kept of a cell's line."""
    drop = ("calls", "layers", "called at each step", "planned", "digest")
    short = {name: value for name, value in row.items() if name not in drop}
    if "sites" in row:
        short["sites"] = {site: {k: v for k, v in each.items() if k != "said"} for site, each in row["sites"].items()}
    return short


def page(rows: list[Row], about: Row) -> str:
    """The page from the rows and the other entries of ``results/compositions.json``."""
    notes: dict[str, int] = {}
    lines: list[str] = []
    for area in dict.fromkeys(row["area"] for row in rows):
        of_area = [row for row in rows if row["area"] == area]
        table = _schedulers if area == SCHEDULERS else _table
        lines += [f"## {area}", "", *table(of_area, notes), ""]
    lines += ["## Reasons", "", "As the record or the error gives them:", ""]
    lines += [f"{number}. {reason}" for reason, number in notes.items()]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    facts = {**about["environment"], "date": about["date"], "packages": packages, "summary": _summary(rows)}
    return HEAD.format(**facts) + "\n".join(lines) + "\n"


def _summary(rows: list[Row]) -> str:
    ran = [row for row in rows if row["outcome"] not in NOT_RUN]
    works = sum(set(_columns(row, {})) == {"works"} for row in ran)
    sites = [site for row in ran for site in row["sites"].values() if "all computed equal" in site]
    equal = sum(site["all computed equal"] for site in sites)
    stale = sum(site["outcome"] == "stale" for site in sites)
    detached = sum(row["detached equal"] for row in ran)
    return (
        f"{len(rows)} cells: {len(ran)} ran, {works} of them as planned at every site and with learned rows. "
        f"Bits equal with every step computed: {equal} of {len(sites)} sites. Repeated runs that differed: {stale}. "
        f"Equal after detaching: {detached} of {len(ran)}."
    )


def _table(rows: list[Row], notes: dict[str, int]) -> list[str]:
    """One line per cell."""
    heads = ("composition", "pipeline", *COLUMNS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [_not_run(row, notes)] + [""] * 5 if row["outcome"] in NOT_RUN else _all_columns(row, notes)
        lines.append(f"| {' | '.join([row['composition'], _pipeline(row), *cells])} |")
    return lines


def _pipeline(row: Row) -> str:
    return f"`{row['pipeline'].removesuffix('Pipeline')}`"


def _not_run(row: Row, notes: dict[str, int]) -> str:
    """The outcome, with a reason that names no class: one reason for all schedulers."""
    reason = re.sub(r"^(\w+): \1: ", r"\1: ", row["reason"])
    reason = re.sub(r"<class '[^']*'>", "", reason).replace(f"{row['composition']}Scheduler", "Scheduler")
    return outcome_cell({"outcome": row["outcome"], "reason": reason}, notes)


def _columns(row: Row, notes: dict[str, int]) -> list[str]:
    """The sites and learned rows."""
    cells = []
    for site, result in row["sites"].items():
        text = outcome_cell(result, notes)
        measured = text != "works" and "calls" in result
        cells.append(f"{text}: {_left(site, result)}" if measured else text)
    learned = outcome_cell(row["calibrated"], notes)
    return [*cells, f"more than planned: {learned} of {row['steps']}" if learned.endswith(" steps") else learned]


def _left(site: str, result: Row) -> str:
    """What a site still runs."""
    if site == "output":
        return f"{result['forward passes later']} of {result['calls']} passes"
    return f"{_percent(result['layers run later'])} of the layers"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _all_columns(row: Row, notes: dict[str, int]) -> list[str]:
    late = row.get("while attached")
    if late is not None:
        parts = {outcome_cell(_as_result(text), notes) for text in late.values()}
        late = (
            next(iter(parts))
            if len(parts) == 1
            else ", ".join(
                f"{site.replace('_', ' ')} {outcome_cell(_as_result(text), notes)}" for site, text in late.items()
            )
        )
    inside = [each.get("layers run later") for site, each in row["sites"].items() if site != "output"]
    layers = " / ".join("-" if share is None else _percent(share) for share in inside)
    return [*_columns(row, notes), late or "-", layers]


def _as_result(text: str) -> Row:
    outcome, _, reason = text.partition(": ")
    return {"outcome": outcome, "reason": reason}


def _schedulers(rows: list[Row], notes: dict[str, int]) -> list[str]:
    """Schedulers by pipeline and outcome."""
    groups: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        name = row["composition"]
        if row["outcome"] in NOT_RUN:
            text, name = "not accepted", f"{name}{_not_run(row, notes).removeprefix('not here')}"
        else:
            cells = _all_columns(row, notes)[: len(SCHEDULER_COLUMNS)]
            named = [f"{column} {cell}" for column, cell in zip(SCHEDULER_COLUMNS, cells, strict=True)]
            text = cells[0] if len(set(cells)) == 1 else ", ".join(named)
        groups.setdefault(_pipeline(row), {}).setdefault(text, []).append(name)
    lines = ["At the output, with learned rows, and put in while attached. Each is made from the configuration of the"]
    lines += ["pipeline's own scheduler; [situations](../hardening.md) lists all schedulers.", ""]
    lines += ["| pipeline | outcome | schedulers |", "|---|---|---|"]
    for pipeline, outcomes in groups.items():
        ordered = sorted(outcomes.items(), key=lambda item: -len(item[1]))
        lines += [f"| {pipeline} | {text} | {', '.join(kinds)} |" for text, kinds in ordered]
    return lines
