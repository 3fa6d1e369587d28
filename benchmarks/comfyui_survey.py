"""What each of ComfyUI's samplers computes under Foreseer.

Needs a checkout of ComfyUI, named by COMFYUI_PATH.

python -m benchmarks.comfyui_survey             # runs all samplers, writes the results and the table of the page
python -m benchmarks.comfyui_survey --table     # writes the table only, from the results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "comfyui_samplers.json"
PAGE = ROOT / "docs" / "hosts" / "comfyui.md"
BEGIN, END = "<!-- samplers: written by benchmarks/comfyui_survey.py -->", "<!-- end of samplers -->"
STEPS = 8
FAMILIES = ("SD3", "SD15")


def survey_one(family: str, name: str) -> dict[str, Any]:
    """One sampler with and without Foreseer."""
    from tests.unit.hosts import comfyui_real as real

    from foreseer.hosts.choice import Choice
    from foreseer.hosts.comfyui.matrix import sampler_matrix
    from foreseer.hosts.comfyui.patch import ModelPatch, patch_of

    matrices: list[Any] = []

    def keep(executor: Any, guider: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        matrices.append(sampler_matrix(executor.class_obj, guider, sigmas))
        return executor(guider, sigmas, *args, **kwargs)

    plain = real.model(family).clone()
    plain.add_wrapper_with_key("sampler_sample", "survey", keep)
    with real.Counter(plain) as counter:
        expected = real.sample(plain, family, name, STEPS)
    calls = counter.calls
    every = ModelPatch(Choice(speedup=1.0)).put_on(real.model(family))
    same = bool((real.sample(every, family, name, STEPS) == expected).all())
    model = ModelPatch(Choice(speedup=2.0)).put_on(real.model(family))
    with real.Counter(model) as counter:
        found = real.sample(model, family, name, STEPS)
    report = patch_of(model).reports[-1]  # pyright: ignore[reportOptionalMemberAccess]
    branches = sorted({branch for record in report.records for branch in {*record.computed, *record.forecast}})
    return {
        "calls": calls,
        "computed": report.forward_passes,
        "network_calls": counter.calls,
        "between_levels": report.between_levels,
        "visits": len(branches),
        "identical_if_all_computed": same,
        "matrix": matrices[0] is not None,
        "relative_error": float((found - expected).norm() / expected.norm()),
        "reasons": report.reasons,
    }


def table(results: dict[str, Any]) -> str:
    """The survey as Markdown."""
    lines = [
        f"ComfyUI {results['comfyui']}, torch {results['torch']}, {results['steps']} steps, `speedup` 2, tiny models "
        "with random weights.",
        "",
        "| samplers | calls (SD3, SD1.5) | computed (SD3, SD1.5) | between levels | visits per level | matrix |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[str]] = {}  # samplers with the same figures, by their cells
    for name in results["SD3"]:
        rows = [results[family][name] for family in FAMILIES]
        both = [", ".join(str(row[key]) for row in rows) for key in ("calls", "computed", "between_levels", "visits")]
        groups.setdefault(f"{' | '.join(both)} | {'yes' if rows[0]['matrix'] else 'no'}", []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} | {cells} |" for cells, names in groups.items()]
    return "\n".join(lines)


def write_table() -> None:
    """Put the table into the page, between its markers."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(json.loads(RESULTS.read_text()))}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        import torch
        from tests.unit.hosts import comfyui_real as real

        torch.set_num_threads(1)
        results: dict[str, Any] = {"comfyui": real.version(), "torch": torch.__version__, "steps": STEPS}
        with torch.inference_mode():
            for family in FAMILIES:
                names = real.comfy().samplers.SAMPLER_NAMES
                results[family] = {name: survey_one(family, name) for name in names}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main()
