"""All compositions, and their cells."""

from __future__ import annotations

from benchmarks.compositions import (
    with_adapters,
    with_calls,
    with_compile,
    with_offload,
    with_others,
    with_precision,
    with_ranks,
    with_schedulers,
)
from benchmarks.compositions.composed import Cell

COMPOSITIONS = (
    *with_adapters.COMPOSITIONS,
    *with_precision.COMPOSITIONS,
    *with_compile.COMPOSITIONS,
    *with_offload.COMPOSITIONS,
    *with_ranks.COMPOSITIONS,
    *with_calls.COMPOSITIONS,
    *with_others.COMPOSITIONS,
    *with_schedulers.COMPOSITIONS,
)
CELLS = tuple(Cell(each, pipeline) for each in COMPOSITIONS for pipeline in each.pipelines)
