"""Write the table of ``docs/models/index.md`` from runs of every tiny pipeline at every site.

Works: the steps that the schedule skips were forecast and no step failed open. Fails open: steps were computed against
the plan, and the record gives the reason. Refused: attaching raised, and the message names the remedy.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter

import foreseer as fs
from foreseer import gate
from tests.packaging.version import ROOT
from tests.support.pipelines import NAMES, TinyPipeline, build

PAGE = ROOT / "docs" / "models" / "index.md"
BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
STEPS = 8
SKIPPING = fs.schedule.Uniform(interval=3, warmup=1)
LINE = fs.forecast.Newton(order=1)
COLUMNS = {
    "output": fs.Policy(SKIPPING, LINE, site="output"),
    "last block": fs.Policy(SKIPPING, LINE, site="last_block"),
    "modules": fs.Policy(SKIPPING, LINE, site="modules"),
    "tokens": fs.Policy(SKIPPING, LINE, site="tokens"),
    "residual": fs.Policy(SKIPPING, LINE, site="residual"),
    "first-block gate": gate.GatedPolicy(gate.FirstBlock(threshold=1e9), LINE, site="output"),
}


def outcome(tiny: TinyPipeline, policy: fs.Policy | fs.GatedPolicy) -> tuple[str, str]:
    """What came of one run: works, fails open or refused; and the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fs.accelerate(tiny.pipe, policy) as handle:
                tiny.run(STEPS)
    except fs.ForeseerError as error:
        return "refused", str(error).splitlines()[0]
    if handle.record.failed_open:
        return "fails open", handle.record.failed_open[0].reason
    assert handle.record.forecast_steps, f"{tiny.name} forecast nothing and said nothing"
    return "works", ""


def label(name: str, tiny: TinyPipeline, classes: Counter[str]) -> str:
    """The pipeline's class, with the tiny model's name where several share the class."""
    kind = type(tiny.pipe).__name__
    return f"`{kind}`" + (f" ({name.replace('_', ' ')})" if classes[kind] > 1 else "")


def table() -> str:
    """The table and, below it, the reasons."""
    built = {name: build(name) for name in NAMES}
    classes = Counter(type(tiny.pipe).__name__ for tiny in built.values())
    pipelines = {label(name, tiny, classes): tiny for name, tiny in built.items()}
    rows, reasons = [], []
    for title, tiny in sorted(pipelines.items(), key=lambda item: item[0].lower()):
        cells = []
        for policy in COLUMNS.values():
            result, reason = outcome(tiny, policy)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{result} ({reasons.index(reason) + 1})" if reason else result)
        rows.append(f"| {title} | {len(tiny.branches)} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    head = [f"| pipeline | calls per step | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    listed = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*head, *rows, "", "Reasons, as the record or the error gives them:", "", *listed])


def main() -> None:
    """Rewrite the page between its markers."""
    page = PAGE.read_text()
    pattern = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    assert len(pattern.findall(page)) == 1
    PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", page))


if __name__ == "__main__":
    main()
