"""``foreseer portrait``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreseer.cli.common import check_budget, created, out_file, print_line
from foreseer.kernel import Kernel
from foreseer.methods.learned import learned


def portrait(
    kernel: Annotated[Path, typer.Argument(help="A kernel file.")],
    nfe: Annotated[int, typer.Option(min=1, help="Computed steps of the plan that is shown.")] = 9,
    out: Annotated[Path, out_file("The PNG to write.")] = Path("portrait.png"),
) -> None:
    """Draw a kernel: projection fidelity, expected error per step, weights, trajectories."""
    loaded = Kernel.load(kernel)
    check_budget(nfe, len(loaded.grid), "--nfe")
    plan = learned(loaded, nfe=nfe).compile(loaded.grid)
    from foreseer.calibration.analysis import plot_kernel

    plot_kernel(loaded, plan, created(out))
    print_line(f"wrote {out}")
