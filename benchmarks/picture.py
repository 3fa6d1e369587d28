"""The picture that README shows: the demo's sheet, in ``docs/_static/demo.png``.

python -m benchmarks.picture
"""

import shutil
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.common import write
from foreseer.evaluate.bench.bench import run_bench
from foreseer.evaluate.bench.demo import Demo
from foreseer.evaluate.report.bench_report import write_demo

PICTURE = Path(__file__).parent.parent / "docs" / "_static" / "demo.png"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Demo().prepare()
        results = run_bench(prepared.bench, prepared.entries, prepared.pipe, Path(folder) / "cells")
        paths = write_demo(results, Path(folder) / "cells", Path(folder) / "demo")
        shutil.copyfile(paths["picture"], PICTURE)
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
