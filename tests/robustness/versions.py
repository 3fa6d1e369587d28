"""Run suites under other versions: ``python -m tests.robustness.versions 0.37.0 0.42.1 torchvision``.

With ``--page`` it has the last of the versions write ``docs/hardening.md`` instead (`tests.robustness.page`).
Counts of each version's tests go to ``benchmarks/results/matrix.json``.

Each version gets a separate virtual environment below ``.venv-matrix``, with torch as it is pinned, and with the
libraries that quantise weights; nothing is installed into the one that runs this. ``torchvision`` is the newest
diffusers with the newest torch that torchvision is there for (5.5 GB; its CUDA build runs on a CPU).
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from tests.robustness.cells import ROOT

SUITES = (
    *("tests/contract", "tests/robustness", "tests/unit/attach", "tests/unit/gate", "tests/unit/calibration"),
    *("tests/unit/methods", "tests/unit/scale"),
    *(f"tests/unit/cli/test_cli{name}.py" for name in ("", "_folders", "_processed", "_newest")),
    "tests/unit/evaluate/test_quality.py",
)
BOUND_TO_DIFFUSERS = ("diffusers", "transformers", "huggingface_hub", "tokenizers", "accelerate", "peft", "cache-dit")
# Slow to import, and of one suite's use: not in `dev`. Some pipelines clean their prompts with ftfy.
QUANTISERS = ("torchao==0.18.0", "bitsandbytes==0.50.2", "gguf==0.19.0", "ftfy==6.3.1")
CHECKED = "torchvision"  # where annotations are checked at every call, once for all versions


# Environments beside those named after diffusers' version: that version, what comes before all else, and what after.
MEASURES = ("lpips==0.1.4", "torch-fidelity==0.4.0")
VARIANTS = {"torchvision": ("0.42.1", ("torch==2.14.1", "torchvision==0.29.1"), MEASURES)}


REPORT = ROOT / ".venv-matrix" / "report.xml"
RESULT = ROOT / "benchmarks" / "results" / "matrix.json"


def environment(version: str) -> Path:
    """The interpreter of that diffusers' or variant's environment, made if it is not there."""
    folder = ROOT / ".venv-matrix" / version
    python = folder / "bin" / "python"
    diffusers, torch, more = VARIANTS.get(version, (version, ("torch",), ()))
    ready, wanted = folder / "ready", [*torch, f"diffusers=={diffusers}", *QUANTISERS, *more]
    if not ready.exists() or ready.read_text().split() != wanted:
        venv.create(folder, with_pip=True)
        pins = (ROOT / "constraints.txt").read_text().splitlines()
        loose = folder / "constraints.txt"
        left_out = BOUND_TO_DIFFUSERS if version not in VARIANTS else ("torch",)
        loose.write_text("\n".join(pin for pin in pins if pin.split("==")[0] not in left_out))
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", loose]
        subprocess.run([*pip, *torch], check=True)  # the build that later packages are to use
        subprocess.run([*pip, *wanted, "--editable", ".[dev]"], check=True, cwd=ROOT)
        ready.write_text("\n".join(wanted))
    return python


def packages(version: str) -> dict[str, str]:
    """Versions of torch and of diffusers there."""
    program = "from importlib.metadata import version; print(version('torch'), version('diffusers'))"
    printed = subprocess.run([environment(version), "-c", program], check=True, capture_output=True, text=True).stdout
    return dict(zip(("torch", "diffusers"), printed.split(), strict=True))


def counts(report: Path) -> dict[str, int]:
    """Numbers of tests in pytest's XML report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "skipped", "failures", "errors")}
    failed = total["failures"] + total["errors"]
    return {"passed": total["tests"] - total["skipped"] - failed, "skipped": total["skipped"], "failed": failed}


def record(version: str, began: float) -> None:
    """Put the counts of a version's tests into the results, in the place of its earlier ones."""
    content: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    row = {"environment": version, **packages(version), **counts(REPORT), "minutes": round((time.time() - began) / 60)}
    row |= {"date": datetime.date.today().isoformat(), "commit": head.stdout.strip()}
    rows = [*(each for each in content["rows"] if each["environment"] != version), row]
    content = {"command": "python -m tests.robustness.versions 0.37.0 0.42.1 torchvision", "rows": rows}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


def run(version: str, *words: str) -> bool:
    """Whether ``python -m words`` succeeds there, slow tests with it."""
    command = [environment(version), "-m", *words]
    more = {"FORESEER_SLOW": "1"} | ({"FORESEER_CHECKED": "1"} if version == CHECKED else {})
    return subprocess.run(command, cwd=ROOT, env=os.environ | more, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """How many versions failed."""
    versions = [word for word in arguments if not word.startswith("--")]
    if "--page" in arguments:
        return int(not run(versions[-1], "tests.robustness.page"))
    failed = 0
    for version in versions:
        began = time.time()
        options = ("-q", "-p", "no:cacheprovider", "-n", "logical", "--dist", "loadfile", f"--junit-xml={REPORT}")
        passed = run(version, "pytest", *options, *SUITES)
        record(version, began)
        failed += not passed
        print(f"diffusers {version}: {'passed' if passed else 'FAILED'}", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
