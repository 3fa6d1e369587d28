"""Default method and budget, shared by `fs.accelerate`, commands and hosts."""

from __future__ import annotations

# The method without anything learned: the simpler of the two that were best on average over three models, each judged
# by what the others gave (docs/methods/generic.md).
DEFAULT_METHOD = "generic"
# Steps divided by computed steps.
DEFAULT_SPEEDUP = 2.5
