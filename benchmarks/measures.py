"""Size of the source at two revisions; Python frames of a call and start of a run in the working tree.

python -m benchmarks.measures BEFORE [AFTER]
"""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tests.support.loop_pipeline import LoopPipeline
from torch import nn

import foreseer as fs

ROOT = Path(__file__).parent.parent
LONG = 50  # lines of a function


def files_at(revision: str) -> dict[str, str]:
    """The source files of a revision by path."""
    listed = _git("ls-tree", "-r", "--name-only", revision, "src").splitlines()
    return {path: _git("show", f"{revision}:{path}") for path in listed if path.endswith(".py")}


def measures(files: dict[str, str]) -> dict[str, str]:
    """Measures of the files by name."""
    lengths = {path: len(text.splitlines()) for path, text in files.items()}
    nodes = [node for text in files.values() for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    documented = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]
    prose = sum(len(text.splitlines()) for node in documented if (text := ast.get_docstring(node)))
    longest = max(lengths, key=lengths.__getitem__)
    return {
        "files": str(len(files)),
        "lines": f"{sum(lengths.values()):,}",
        "median file, lines": f"{statistics.median(lengths.values()):g}",
        "longest file, lines": f"{lengths[longest]} ({longest.removeprefix('src/foreseer/')})",
        f"functions over {LONG} lines": str(sum(node.end_lineno - node.lineno >= LONG for node in functions)),
        "docstrings, share of lines": f"{prose / sum(lengths.values()):.0%}",
    }


def frames() -> dict[str, float]:
    """Median Python frames of a call of the network on a toy loop, by what became of it."""
    pipe = LoopPipeline(FlowMatchEulerDiscreteScheduler())
    kind, ordinary, counts = type(pipe.transformer), nn.Module.__call__, []

    def profile(frame: Any, event: str, argument: Any) -> None:
        counts[-1] += event == "call"

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        counts.append(0)
        sys.setprofile(profile)
        try:
            return ordinary(self, *args, **kwargs)
        finally:
            sys.setprofile(None)

    policy = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.Newton(order=1))
    with fs.accelerate(pipe, policy) as handle:
        pipe("a", 20)
        kind.__call__ = call
        try:
            pipe("a", 20)
        finally:
            del kind.__call__
    assert handle.record is not None
    steps = {"computed": handle.record.computed_steps, "skipped": handle.record.forecast_steps}
    return {name: statistics.median(counts[step] for step in at) for name, at in steps.items()}


def run_start(repeats: int = 9) -> float:
    """Median processor time, in ms, of a run's first call on FLUX's modules, the network itself left out."""
    with torch.device("meta"):
        network = FluxTransformer2DModel()
    stored = (torch.zeros(1, 4, 64),)
    network.forward = lambda *args, **kwargs: stored
    scheduler = FlowMatchEulerDiscreteScheduler()
    policy = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.Newton(order=1))
    times = []
    with torch.no_grad(), fs.accelerate(network, policy, scheduler=scheduler):
        for _ in range(repeats):
            scheduler.set_timesteps(20)
            scheduler.set_begin_index(0)
            began = time.process_time()
            network(hidden_states=stored[0], timestep=scheduler.timesteps[0].expand(1))
            times.append(1e3 * (time.process_time() - began))
    return statistics.median(times[1:])


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    before, after = (*sys.argv[1:], "HEAD")[:2]
    old, new = (measures(files_at(revision)) for revision in (before, after))
    print(f"| | {before} | {after} |\n| --- | --- | --- |")
    for name in old:
        print(f"| {name} | {old[name]} | {new[name]} |")
    for name, count in frames().items():
        print(f"| Python frames at a {name} step of the output | | {count:g} |")
    print(f"| start of a run on FLUX's modules, ms | | {run_start():.0f} |")


if __name__ == "__main__":
    main()
