"""Why published methods do as they do here: their parts exchanged one by one, on unseen captions.

TeaCache adds the blocks' last change to a new input, at steps where the modulated input has moved; plain reuse repeats
the last output, at even steps: all four combinations, at equal mean passes. Spectrum's forecast shrinks by a ridge
and, in its blend, leans on differences: both set otherwise, at its own steps.

    python -m benchmarks.parts [--prompts 16] [--video]
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import foreseer as fs
from benchmarks import learning, video
from benchmarks.common import bundled, write
from benchmarks.gated import run_gated
from benchmarks.learning import CALIBRATION_SEED, STEPS
from foreseer.evaluate.entries.tune_gates import GateTuning
from foreseer.forecast import Chebyshev, Reuse, TaylorSeer
from foreseer.gate import GatedPolicy, TeaCache
from foreseer.methods import find
from foreseer.pipelines import load_pipeline, split_sampling
from foreseer.schedule import Uniform

TRIALS = 4
BUDGETS = (14, 9, 7)
SITES = {"change of the blocks": "residual", "output": "output"}
SPECTRUM = {
    "Spectrum as published: ridge 0.1": Chebyshev(),
    "ridge 0.01": Chebyshev(ridge=0.01),
    "ridge 0.001": Chebyshev(ridge=0.001),
    "ridge 0.1, half Newton": Chebyshev(blend=0.5),
    "ridge 0.001, half Newton": Chebyshev(ridge=0.001, blend=0.5),
    "ridge 0.1, degree 2": Chebyshev(degree=2),
    "TaylorSeer's forecast": TaylorSeer(),
}


def even(bench: Any, nfe: float, site: str) -> float:
    """PSNR of reuse at even steps, between the budgets on both sides of a broken one."""
    least = int(nfe)
    found = []
    for budget in (least, least + 1):
        policy = fs.Policy(Uniform.for_nfe(budget, STEPS), Reuse(), site=site)
        found.append(bench.score(bench.sample(STEPS, policy))[0])
    return found[0] + (nfe - least) * (found[1] - found[0])


def teacache(bench: Any, trials: GateTuning) -> Iterator[dict[str, Any]]:
    """All four combinations; the even steps have as many forward passes as the gate spent."""
    gate = trials.fitted(TeaCache())
    for budget in BUDGETS:
        for title, site in SITES.items():
            settled = trials.tune(GatedPolicy(gate, Reuse(), site=site, decided_by="each"), budget)
            made, spent = run_gated(bench, settled.policy)
            nfe = float(spent.mean())
            row = {"asked": budget, "method": f"reuse of the {title}", "forward_passes": nfe}
            yield row | {"steps": "TeaCache's", "dB": bench.score(made)[0]}
            yield row | {"steps": "even", "dB": even(bench, nfe, site)}


def spectrum(bench: Any) -> Iterator[dict[str, Any]]:
    """Spectrum's steps and site with other forecasts."""
    for budget in BUDGETS:
        policy = find("spectrum").policy(STEPS, budget)
        for title, forecaster in SPECTRUM.items():
            made = bench.sample(STEPS, replace(policy, forecaster=forecaster))
            row = {"asked": budget, "method": title, "forward_passes": budget, "steps": "Spectrum's"}
            yield row | {"dB": bench.score(made)[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--video", action="store_true", help="on the video example")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.video:
        pipe, sampling = load_pipeline(str(video.FOLDER))
        pipe.set_progress_bar_config(disable=True)
        options = {**split_sampling(sampling)[1], "guidance_scale": 1.0}
    else:
        pipe, _, options = bundled()
    options.pop("num_inference_steps")
    room: Any = video if given.video else learning
    bench = (video.VideoBench if given.video else learning.Bench)(pipe, options, room.captions(given.prompts, TRIALS))
    trials = GateTuning(pipe, STEPS, options, room.captions(TRIALS, 0), CALIBRATION_SEED)
    rows = []
    for row in (*spectrum(bench), *teacache(bench, trials)):
        rows.append(row)
    command = f"python -m benchmarks.parts --prompts {given.prompts}" + (" --video" if given.video else "")
    write("parts_video" if given.video else "parts", command, rows, of_bundled=not given.video)


if __name__ == "__main__":
    main()
