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
from benchmarks.sweep.borrowed import FILE as BORROWED
from benchmarks.sweep.fixtures import Fixture
from benchmarks.sweep.reasons import cause_of, has_loop, stand_ins, why_no_fixture
from benchmarks.sweep.trial import SITES
from foreseer.evaluate.sampling.environment import environment

PAGE = Path(__file__).parents[2] / "docs" / "models" / "every-pipeline.md"
NOT_YET = "not run yet"
NOT_TRIED = ("no fixture", "time limit", "memory limit", "died", "no steps", "not repeatable")
WORDS = {"as planned": "works", "time limit": "no result in time"}
HEAD = """# Every pipeline of diffusers

Each pipeline's tiny test fixture from diffusers, with Foreseer attached, on a CPU: 8 steps, every second one computed.
Run on {date}: diffusers {diffusers}, torch {torch}, transformers {transformers}; fixtures of huggingface/diffusers at
{commit}.

{summary}

- *works*: a plan that computes every step gives the bits of the run without Foreseer; a plan that computes half of the
  steps forecasts the others, and repeated runs give the bits of a fresh attachment.
- *fails open*: steps were computed against the plan, and the record gives the reason.
- *refused*: attaching or calibrating raised an error that names the remedy.
- *learned rows*: `fs.calibrate` with the fixture's call, then a run with 4 computed steps.

"""


def tried(rows: list[dict[str, Any]], of: Iterable[Fixture] | None = None) -> set[str]:
    """The pipelines that ran to their end; with ``of``, those whose run was of these fixtures."""
    keys = None if of is None else {each.key for each in of}
    ran = [row for row in rows if row["outcome"] not in NOT_TRIED]
    return {row["pipeline"] for row in ran if keys is None or row["fixture"] in keys}


def without_fixture(upstream: Iterable[Fixture]) -> set[str]:
    """The pipelines with a sampling loop and no fixture upstream; not the modular ones."""
    return {name for name in exported() - {each.pipeline for each in upstream} if has_loop(name)}


def write_page(rows: list[dict[str, Any]], fixtures: list[Fixture], commit: str, date: str, other: bool) -> None:
    """Write both files; with ``other``, the results are those of another version of diffusers."""
    keys = {each.key for each in fixtures}
    seen = [row for row in rows if row["fixture"] in keys]
    rest = [each for each in fixtures if not other and each.key not in {row["fixture"] for row in seen}]
    seen += [
        {"fixture": each.key, "pipeline": each.pipeline, "outcome": "no fixture", "reason": NOT_YET} for each in rest
    ]
    about = {"date": date, "command": "python -m benchmarks.sweep", "upstream": commit, "environment": environment()}
    RESULTS.mkdir(exist_ok=True)
    for row in seen:
        if row.get("torch") == about["environment"]["torch"]:
            del row["torch"]
    short = sorted((_short(row) for row in seen), key=lambda row: (row["pipeline"], row["fixture"]))
    text = ",\n".join(json.dumps(row) for row in short)
    about |= {"fixtures": len(fixtures)} if other else {"not tried": not_tried(short)}
    file = RESULTS / (f"sweep_{about['environment']['diffusers']}.json" if other else "sweep.json")
    file.write_text(json.dumps(about)[:-1] + f', "rows": [\n{text}\n]}}\n')
    about = json.loads((RESULTS / "sweep.json").read_text())
    PAGE.write_text(page(about.pop("rows"), about))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a fixture's line."""
    keep = ("fixture", "pipeline", "outcome", "reason", "steps", "calls", "calibrated", "detached equal")
    keep += ("depends on the network", "seconds", "torch")
    short = {name: row[name] for name in keep if name in row}
    short["pipeline"] = f"{row['pipeline'].removesuffix('Wrapper').removesuffix('Pipeline')}Pipeline"
    if "sites" in row:
        short["sites"] = {site: {k: v for k, v in each.items() if k != "said"} for site, each in row["sites"].items()}
    return short


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The page from the rows and the other entries of ``results/sweep.json``."""
    tried = [row for row in rows if row["outcome"] not in NOT_TRIED]
    notes: dict[str, int] = {}
    table: dict[str, None] = {}  # rows once each: a pipeline can have several fixtures
    whole: dict[str, set[str]] = {}  # pipelines that work everywhere, by the modules that are not attached
    partly: set[str] = set()
    for row in tried:
        cells = [outcome_cell(row["sites"][site], notes) for site in SITES] + [outcome_cell(row["calibrated"], notes)]
        beside = ", ".join(row["sites"]["output"].get("not attached", []))
        if set(cells) == {"works"}:
            whole.setdefault(beside, set()).add(row["pipeline"])
        else:
            partly.add(row["pipeline"])
            table["| " + " | ".join([f"`{row['pipeline']}`", *cells, beside]) + " |"] = None
    lines = ["## Work everywhere", "", "At the output, the last block and the modules, and with learned rows:", ""]
    for beside, names in sorted(whole.items()):
        lines += [(f"With its {beside} computed at each step: " if beside else "") + _names(names - partly) + ".", ""]
    heads = ["pipeline", *(site.replace("_", " ") for site in SITES), "learned rows", "not attached"]
    lines += ["## Others", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *table, ""]
    lines += ["Modules that are *not attached* are computed at each step.", ""]
    lines += ["Reasons, as the record or the error gives them:", ""]
    lines += [f"{number}. {reason}" for reason, number in notes.items()]
    kept = {row["pipeline"] for row in tried if row.get("depends on the network") is False}
    if kept:
        lines += ["", f"The fixture's mask keeps the whole picture, so the network changes nothing: {_names(kept)}."]
    made = {row["pipeline"] for row in tried if row["fixture"].startswith(BORROWED)}
    if made:
        lines += ["", f"Upstream has no fixture; made of the components of others: {_names(made)}."]
    for torch in sorted({row["torch"] for row in tried if "torch" in row}):
        names = {row["pipeline"] for row in tried if row.get("torch") == torch}
        lines += ["", f"With torchvision and torch {torch}: {_names(names)}."]
    lines += _other_versions(rows)
    lines += ["", "## Not tried", "", *_not_tried(about["not tried"])]
    facts = {**about["environment"], "date": about["date"], "commit": about["upstream"]}
    return HEAD.format(**facts, summary=_summary(rows, tried)) + "\n".join(lines) + "\n"


def _other_versions(rows: list[dict[str, Any]]) -> list[str]:
    """What fixtures of other versions of diffusers did, and where that differs from ``rows``."""
    usual = {(row["pipeline"], row["fixture"]): _outcomes(row) for row in rows if "sites" in row}
    lines = ["", "## Other versions"]
    for path in sorted(RESULTS.glob("sweep_*.json")):
        about = json.loads(path.read_text())
        ran = [row for row in about["rows"] if "sites" in row]
        equal = sum(row["sites"]["output"].get("all computed equal", False) for row in ran)
        text = f"diffusers {about['environment']['diffusers']}, fixtures at {about['upstream']}: {len(ran)} of "
        text += f"{about['fixtures']} fixtures ran. Bits equal with every step computed: {equal} of {len(ran)}."
        lines += ["", text]
        expected = dict.fromkeys((*SITES, "learned rows"), "as planned")
        for row in ran:
            outcomes = _outcomes(row)
            if outcomes != usual.get((row["pipeline"], row["fixture"]), expected):
                named = ", ".join(
                    f"{site.replace('_', ' ')} {WORDS.get(word, word)}" for site, word in outcomes.items()
                )
                lines += ["", f"`{row['pipeline']}` differs from above: {named.replace('_', ' ')}."]
    return lines


def _outcomes(row: dict[str, Any]) -> dict[str, str]:
    """Outcomes at the sites and of learned rows."""
    return {**{site: row["sites"][site]["outcome"] for site in SITES}, "learned rows": row["calibrated"]["outcome"]}


def _names(pipelines: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(pipelines))


def not_tried(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Every pipeline without a result: why, and where its network was tried."""
    done = {row["pipeline"] for row in rows if row["outcome"] not in NOT_TRIED}
    reasons = {row["pipeline"]: row.get("reason", row["outcome"]) for row in rows if row["pipeline"] not in done}
    made = {row["pipeline"] for row in rows if row["fixture"].startswith(BORROWED)}
    reasons |= {name: why_no_fixture(name) for name in exported() - done - reasons.keys()}
    elsewhere = stand_ins(reasons, done)
    missing = {}
    for name, reason in sorted(reasons.items()):
        why = cause_of(reason)
        why = f"no fixture upstream; of others' components: {why}" if name in made else why
        missing[name] = {"why": _plain(why)}
        if name in elsewhere:
            missing[name] |= {"network": elsewhere[name][0], "tried in": elsewhere[name][1]}
    return missing


def _not_tried(missing: dict[str, dict[str, str]]) -> list[str]:
    """Lists of pipelines without a result, by cause and by network."""
    causes: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, each in missing.items():
        network = each.get("network", "").rpartition(".")[2], each.get("tried in", "")
        causes.setdefault(each["why"], {}).setdefault(network, []).append(name)
    lines = ["By reason. In brackets: the pipeline in which the same network was tried.", ""]
    single = {}  # reasons that one pipeline has
    for why, networks in sorted(causes.items(), key=lambda item: (-sum(map(len, item[1].values())), item[0])):
        if sum(map(len, networks.values())) == 1:
            ((network, (name,)),) = networks.items()
            single[name] = (
                f"- `{name}`" + (f" (`{network[0]}`, tried in `{network[1]}`)" if network[0] else "") + f": {why}"
            )
            continue
        lines += [f"**{why}**", ""]
        for (network, tried_in), names in sorted(networks.items(), key=lambda item: (-len(item[1]), item[0])):
            lines.append("- " + (f"`{network}` (tried in `{tried_in}`): " if network else "") + _names(names))
        lines.append("")
    return [*lines, "**One by one**", "", *(single[name] for name in sorted(single))]


def _summary(rows: list[dict[str, Any]], tried: list[dict[str, Any]]) -> str:
    output = [row["sites"]["output"] for row in tried]
    outcomes = Counter(each["outcome"] for each in output)
    equal = sum(each.get("all computed equal", False) for each in output)
    asked = sum("all computed equal" in each for each in output)
    said = ", ".join(f"{WORDS.get(name, name)} {count}" for name, count in outcomes.most_common())
    stale = sum(each["outcome"] == "stale" for row in tried for each in row["sites"].values())
    detached = sum(row["detached equal"] for row in tried)
    counts = f"{len(rows)} fixtures: {len(tried)} ran ([the others](#not-tried))."
    bits = f"Bits equal with every step computed: {equal} of {asked}. Repeated runs that differed: {stale}."
    return f"{counts} At the output: {said}. {bits} Equal after detaching: {detached} of {len(tried)}."


def outcome_cell(result: dict[str, Any], notes: dict[str, int]) -> str:
    """A result in a table; ``notes`` gets its reason, if it has one."""
    word: str = WORDS.get(result["outcome"], result["outcome"])
    failed = result.get("failed open") or []
    reason = result.get("reason") or (re.sub(r"^-?\d+ [^:]*: ", "", failed[0]) if failed else "")
    if word == "works" or not reason:
        return word
    return f"{word} ({notes.setdefault(_first_clause(_plain(reason)), len(notes) + 1)})"


def _plain(reason: str) -> str:
    """A reason for a table: no bars, no paths."""
    return re.sub(r"\s*/[\w./-]{12,}", "", reason.replace("|", "/")).replace("<", "").replace(">", "")[:240]


def _first_clause(reason: str) -> str:
    """A reason without the remedy that follows it; counts and levels, which differ from run to run, as N."""
    clause = re.split(r"; use site=|, and without it|\. |(?<=per noise level)\.|\(the network", reason)[0] or ""
    return re.sub(r"\b\d+(\.\d+)?\b", "N", clause.strip())


def exported() -> set[str]:
    """Names of all pipelines that diffusers exports, modular ones included."""
    names = getattr(diffusers, "_import_structure", {})
    exported = {name for each in names.values() for name in each}
    return {name for name in exported if name.endswith("Pipeline") and "Onnx" not in name and "Flax" not in name}
