"""Default method and budget, shared by `fs.accelerate`, commands and hosts."""

from __future__ import annotations

# The method without anything learned. At 14 of 50 steps it is the best fixed formula on the bundled models, with
# guidance and without (benchmarks/README.md).
DEFAULT_METHOD = "taylorseer"
# Steps divided by computed steps. At 14 of 50 steps most methods look like the reference (docs/choosing.md); this is
# more careful.
DEFAULT_SPEEDUP = 2.5
