"""Writes ``results/sweep.json`` and ``docs/models/every-pipeline.md`` from the sweep's lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers

from benchmarks.common import RESULTS
from benchmarks.sweep.fixtures import Fixture
from benchmarks.sweep.trial import SITES
from foreseer.evaluate.sampling.environment import environment

PAGE = Path(__file__).parents[2] / "docs" / "models" / "every-pipeline.md"
NOT_YET = "not run yet"
NOT_TRIED = ("no fixture", "time limit", "memory limit", "died", "no steps", "not repeatable")
WORDS = {"as planned": "works", "time limit": "no result in time"}
HEAD = """# Every pipeline of diffusers

Upstream's own tiny fixture of every pipeline, with Foreseer attached, on a CPU: 8 steps asked for, every second one
computed, the modules' calls counted from outside. Last run on {date}: diffusers {diffusers}, torch {torch},
transformers {transformers}; fixtures of huggingface/diffusers at {commit}.

{summary}

- *works*: bits equal the plain run's when every step is computed; half of the steps are forecast; one seed, another
  and the first again give the same as in a fresh attachment; the record adds up to the calls.
- *fails open*: steps were computed against the plan, and the record gives the reason.
- *refused*: attaching or calibrating raised an error that names the remedy.
- *learned rows*: `fs.calibrate` with the fixture's own call, then a run with 4 computed steps.

"""


def tried(rows: list[dict[str, Any]], of: Iterable[Fixture] | None = None) -> set[str]:
    """The pipelines that ran to their end; with ``of``, those whose run was of these fixtures."""
    keys = None if of is None else {each.key for each in of}
    ran = [row for row in rows if row["outcome"] not in NOT_TRIED]
    return {row["pipeline"] for row in ran if keys is None or row["fixture"] in keys}


def write_page(rows: list[dict[str, Any]], fixtures: list[Fixture], commit: str, date: str) -> None:
    """Write both files."""
    keys = {each.key for each in fixtures}
    seen = [row for row in rows if row["fixture"] in keys]
    rest = [each for each in fixtures if each.key not in {row["fixture"] for row in seen}]
    seen += [
        {"fixture": each.key, "pipeline": each.pipeline, "outcome": "no fixture", "reason": NOT_YET} for each in rest
    ]
    about = {"date": date, "command": "python -m benchmarks.sweep", "upstream": commit, "environment": environment()}
    RESULTS.mkdir(exist_ok=True)
    short = sorted((_short(row) for row in seen), key=lambda row: (row["pipeline"], row["fixture"]))
    text = ",\n".join(json.dumps(row) for row in short)
    (RESULTS / "sweep.json").write_text(json.dumps(about)[:-1] + f', "rows": [\n{text}\n]}}\n')
    PAGE.write_text(_page(short, about))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a fixture's line."""
    keep = ("fixture", "pipeline", "outcome", "reason", "steps", "calls", "calibrated", "detached equal")
    keep += ("depends on the network", "seconds", "torch")
    short = {name: row[name] for name in keep if name in row}
    if "sites" in row:
        short["sites"] = {site: {k: v for k, v in each.items() if k != "said"} for site, each in row["sites"].items()}
    return short


def _page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    tried = [row for row in rows if row["outcome"] not in NOT_TRIED]
    notes: dict[str, int] = {}
    lines = [
        "| pipeline | " + " | ".join(site.replace("_", " ") for site in SITES) + " | learned rows | not attached |"
    ]
    lines.append("|---" * (len(SITES) + 3) + "|")
    cells: dict[tuple[str, ...], int] = Counter()
    for row in tried:
        sites = [_cell(row["sites"][site], notes) for site in SITES]
        beside = ", ".join(row["sites"]["output"].get("not attached", []))
        cells[f"`{row['pipeline']}`", *sites, _cell(row["calibrated"], notes), beside] += 1
    lines += ["| " + " | ".join(cell) + " |" for cell in cells]
    lines += ["", "Modules that are *not attached* are called at each step and always computed.", ""]
    lines += ["Reasons, as the record or the error gives them:", ""]
    lines += [f"{number}. {reason}" for reason, number in notes.items()]
    lines += ["", "## Not tried", "", "| pipeline | why |", "|---|---|"]
    done = {row["pipeline"] for row in tried}
    why = {row["pipeline"]: row for row in rows if row["pipeline"] not in done}
    lines += [f"| `{name}` | {_plain(row.get('reason', row['outcome']))} |" for name, row in sorted(why.items())]
    without = sorted(_exported() - done - set(why))
    lines += ["", f"Exported pipelines for which upstream's checkout has no fixture ({len(without)}): "]
    lines[-1] += ", ".join(f"`{name}`" for name in without) + "."
    facts = {**about["environment"], "date": about["date"], "commit": about["upstream"]}
    return HEAD.format(**facts, summary=_summary(rows, tried)) + "\n".join(lines) + "\n"


def _summary(rows: list[dict[str, Any]], tried: list[dict[str, Any]]) -> str:
    output = [row["sites"]["output"] for row in tried]
    outcomes = Counter(each["outcome"] for each in output)
    equal = sum(each.get("all computed equal", False) for each in output)
    asked = sum("all computed equal" in each for each in output)
    said = ", ".join(f"{WORDS.get(name, name)} {count}" for name, count in outcomes.most_common())
    stale = sum(each["outcome"] == "stale" for row in tried for each in row["sites"].values())
    waiting = sum(row.get("reason") == NOT_YET for row in rows)
    detached = sum(row["detached equal"] for row in tried)
    counts = f"{len(rows)} fixtures: {len(tried)} ran, {waiting} were not run yet, the others cannot be built here."
    bits = f"Bits equal with every step computed: {equal} of {asked}. Stale at any site: {stale}."
    return f"{counts} At the output: {said}. {bits} Equal after detaching: {detached} of {len(tried)}."


def _cell(result: dict[str, Any], notes: dict[str, int]) -> str:
    word = WORDS.get(result["outcome"], result["outcome"])
    failed = result.get("failed open") or []
    reason = result.get("reason") or (re.sub(r"^-?\d+ [^:]*: ", "", failed[0]) if failed else "")
    if word == "works" or not reason:
        return word
    return f"{word} ({notes.setdefault(_plain(reason), len(notes) + 1)})"


def _plain(reason: str) -> str:
    """A reason for a table: no bars, no paths."""
    return re.sub(r"\s*/[\w./-]{12,}", "", reason.replace("|", "/")).replace("<", "").replace(">", "")[:240]


def _exported() -> set[str]:
    names = getattr(diffusers, "_import_structure", {})
    exported = {name for each in names.values() for name in each}
    return {name for name in exported if name.endswith("Pipeline") and "Onnx" not in name and "Flax" not in name}
