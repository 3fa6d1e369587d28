"""The papers' tables of cost on random weights: forward passes, latency, FLOPs and peak memory.

Every method of the presets of a model, through the bench itself, latents as output. L2P runs with a matrix of no
meaning: what a row holds does not change what it costs. Nothing is said about fidelity.

    python -m benchmarks.random_weights --scale small                      # every model, on a CPU
    python -m benchmarks.random_weights --scale full --model flux.1-dev    # on a GPU, and likewise hunyuan-video

    python -m benchmarks.random_weights --operations                       # real size, no weights, no GPU

The full scale is the released size in bfloat16; it writes results/random_weights_full_MODEL.json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write
from benchmarks.tensor_forecasters import mixing_matrix
from foreseer.evaluate.architectures.meta_flops import full_cost
from foreseer.evaluate.architectures.random_models import RANDOM_MODELS
from foreseer.evaluate.architectures.random_weights import NAMES, RandomPipeline, random_pipeline
from foreseer.evaluate.bench.bench import Bench, run_bench
from foreseer.evaluate.bench.results import Row
from foreseer.evaluate.presets import Preset, default_prompts, load_preset
from foreseer.forecast import L2P

PRESETS = {
    "flux.1-dev": ("spectrum-table-1-flux", "l2p-flux", "taylorseer-flux"),
    "sd3.5-large": ("spectrum-table-1-sd3.5-large",),
    "qwen-image": ("l2p-qwen-image",),
    "hunyuan-video": ("l2p-hunyuan", "spectrum-table-2-hunyuan"),
    "wan2.1-14b": ("spectrum-table-2-wan",),
}


def measure(random: RandomPipeline, preset: Preset, prompts: int, steps: int) -> list[dict[str, Any]]:
    """One row a method of the preset that can be run, the reference first."""
    matrix = L2P(mixing_matrix().numpy())
    bench = Bench(
        model=random.title,
        prompts=default_prompts(preset)[:prompts],
        steps=steps,
        options=random.options,
        decode=False,
        incomparable="the weights are random",
        notes=[random.note],
    )
    with tempfile.TemporaryDirectory() as folder:
        results = run_bench(bench, preset.entries(steps, matrix), random.pipe, Path(folder))
    reference = results.rows[0].peak_memory
    return [figures(random, preset, row, reference) for row in results.rows if row.nfe is not None]


def figures(random: RandomPipeline, preset: Preset, row: Row, reference: int | None) -> dict[str, Any]:
    """What the table shows of a row, ours beside theirs."""
    published = preset.published.get(row.method, {})
    mebibytes = [None if one is None else one / 2**20 for one in (row.peak_memory, reference)]
    extra = None if None in mebibytes else mebibytes[0] - mebibytes[1]  # pyright: ignore[reportOperatorIssue]
    return {
        "model": random.title,
        "preset": preset.name,
        "method": row.title,
        "NFE": row.nfe,
        "loop, s": row.latency.median if row.latency is not None else None,
        "speedup": row.speedup,
        "published": published.get("Speedup", published.get("Latency speedup", "-")),
        "FLOPs, T": row.flops / 1e12 if row.flops is not None else None,
        "FLOPs ratio": row.flops_speedup,
        "published FLOPs ratio": published.get("FLOPs speedup", "-"),
        "peak, MiB": mebibytes[0],
        "extra, MiB": extra,
        "error": row.error or "",
    }


def operations() -> list[dict[str, Any]]:
    """Operations of each model at its real size, beside what a paper says where it says it."""
    hunyuan = load_preset("l2p-hunyuan").published
    published = [("reference", 50), ("steps-11", 11), ("l2p-n7", 9)]
    rows = []
    for name in NAMES:
        cost, model = full_cost(name), RANDOM_MODELS[name]
        size = "x".join(str(model.call[key]) for key in ("height", "width", "num_frames") if key in model.call)
        shown = {"model": model.title, "size": size, "parameters, billion": cost.parameters / 1e9}
        for way, nfe in published if name == "hunyuan-video" else published[:1]:
            beside = hunyuan[way]["FLOPs (T)"] if name == "hunyuan-video" else "-"
            rows.append({**shown, "NFE": nfe, "FLOPs, T": round(nfe * cost.flops / 1e12, 1), "published": beside})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NAMES, action="append", help="repeatable; by default every model")
    parser.add_argument("--scale", choices=("full", "small"), default="small")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default=None)
    parser.add_argument("--operations", action="store_true", help="count at the real size, on no device")
    given = parser.parse_args()
    if given.operations:
        write("operations", "python -m benchmarks.random_weights --operations", operations(), of_bundled=False)
        return
    torch.set_num_threads(given.threads)
    models, scale = given.model or NAMES, given.scale
    rows = []
    for model in models:
        random = random_pipeline(model, scale, given.device)
        for preset in PRESETS[model]:
            rows += measure(random, load_preset(preset), given.prompts, given.steps)
        del random
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    suffix = "_".join([scale, *(given.model or ())])
    chosen = "".join(f" --model {model}" for model in given.model or ())
    command = f"python -m benchmarks.random_weights --scale {scale}{chosen} --prompts {given.prompts}"
    write(
        f"random_weights_{suffix}",
        command + (f" --steps {given.steps}" if given.steps != 50 else ""),
        rows,
        of_bundled=False,
    )


if __name__ == "__main__":
    main()
