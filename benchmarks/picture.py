"""The picture that README shows: the demo's first captions, in ``docs/_static/demo.png``.

python -m benchmarks.picture
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common import write
from benchmarks.rendering import PICTURES
from foreseer.evaluate.bench.bench import run_bench
from foreseer.evaluate.bench.demo import Demo
from foreseer.evaluate.report.sheet import write_sheet

SHOWN = 3  # captions; the figures are means over all of the demo's
PICTURE = PICTURES / "demo.png"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Demo().prepare()
        results = run_bench(prepared.bench, prepared.entries, prepared.pipe, Path(folder) / "cells")
        write_sheet(replace(results, prompts=results.prompts[:SHOWN]), Path(folder) / "cells", PICTURE)
    rows = [
        {
            "method": row.method,
            "NFE": row.nfe,
            "PSNR, dB": round(statistics.mean(row.per_prompt["psnr"]), 2) if row.per_prompt else None,
        }
        for row in results.rows
    ]
    write("demo", "python -m benchmarks.picture", rows)


if __name__ == "__main__":
    main()
