"""Tries what users put around a pipeline, and every scheduler.

    python -m benchmarks.compositions --out FILE [--only TEXT ...] [--limit SECONDS] [--memory GB]
    python -m benchmarks.compositions --out FILE --page

Each cell, a composition on one tiny pipeline with random weights, runs in a separate process with a limit of processor
time and of memory. FILE holds one JSON object per line; a cell that is in it already is not run again. Precision needs
the packages torchao, bitsandbytes and gguf.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from benchmarks.compositions.catalogue import CELLS
from benchmarks.compositions.cell_page import write_page
from benchmarks.compositions.cell_trial import try_cell
from benchmarks.forked import rows_of, try_each
from foreseer.pipelines import quiet_libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[""], help="cells whose name holds one of these texts")
    parser.add_argument("--limit", type=int, default=300, help="processor seconds for each cell")
    parser.add_argument("--memory", type=float, default=6, help="gigabytes for each cell")
    parser.add_argument("--page", action="store_true", help="only write the results and the page from FILE")
    given = parser.parse_args()
    if given.page:
        write_page(rows_of(given.out, "cell"), [cell.about for cell in CELLS])
        return
    torch.set_num_threads(1)
    quiet_libraries()
    trials = [
        (cell.about, partial(try_cell, cell))
        for cell in CELLS
        if any(text.lower() in cell.about["cell"].lower() for text in given.only)
    ]
    try_each(trials, "cell", given.out, given.limit, given.memory)


if __name__ == "__main__":
    main()
