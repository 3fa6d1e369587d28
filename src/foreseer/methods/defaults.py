"""Default method and budget, shared by `fs.accelerate`, commands and hosts."""

from __future__ import annotations

# The method without anything learned. At 14 of 50 steps it was the best fixed formula on the earlier bundled model and
# on the video example without guidance. On the bundled model with guidance Spectrum is 9 dB ahead.
DEFAULT_METHOD = "taylorseer"
# Steps divided by computed steps.
DEFAULT_SPEEDUP = 2.5
