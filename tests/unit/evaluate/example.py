"""Example results of a bench: three methods at two budgets, a peer that failed, hostile text."""

import math

import numpy as np
from PIL import Image

from foreseer.evaluate.bench.results import BenchResults, Measure, Row, Spread

HOSTILE = "</script><script>alert(1)</script> \"double\" 'single' & `tick` {{ 7 * 7 }} 红苹果 🍎 $x_1^2$ 50% #1 | pipe"


def row(method, budget, psnr, seconds, **more):
    errors = {str(step): 0.01 * step / budget for step in (10, 20, 30)}
    values = {"psnr": psnr, "ssim": 1 - 1 / psnr}
    return Row(
        **{
            "method": method,
            "title": method.capitalize(),
            "budget": budget,
            "settings": {"order": 2},
            "steps": 30,
            "nfe": float(budget),
            "flops": budget * 1.5e12,
            "latency": Spread(seconds, seconds * 0.9, seconds * 1.2),
            "end_to_end": Spread(seconds + 0.5, seconds + 0.4, seconds + 0.7),
            "speedup": 12 / seconds,
            "flops_speedup": 30 / budget,
            "measures": values,
            "per_prompt": {name: [value] * 2 for name, value in values.items()},
            "latent_error": errors,
            **more,
        }
    )


def example_results():
    reference = Row(
        "reference",
        "Every step",
        steps=30,
        nfe=30.0,
        flops=45e12,
        latency=Spread(12.0, 11.0, 13.0),
        speedup=1.0,
        flops_speedup=1.0,
        measures={"psnr": math.inf, "ssim": 1.0},
        pictures=["pictures/reference-0.png", "pictures/reference-1.png"],
    )
    rows = [reference]
    for method, worse in (("taylor", 2.0), ("reuse", 5.0), ("learned", 0.0)):
        for budget in (6, 12):
            pictures = [f"pictures/{method}-{budget}-{index}.png" for index in range(2)]
            rows.append(row(method, budget, 30.125 + budget - worse, budget / 4 + worse / 100, pictures=pictures))
    rows[1].published = {"PSNR": 28.4, "Latency speedup": "3.47x", "ImageReward": 1.02}
    rows.append(Row("peer", "A peer", 12, error="ValueError: <b>blocks</b> of 100% & more\nare $missing_\\"))
    measures = [
        Measure("psnr", "PSNR, dB", "higher", source="scikit-image 1"),
        Measure("ssim", "SSIM", "higher"),
        Measure("lpips", "LPIPS", "lower", missing="the package <lpips> is not installed"),
    ]
    return BenchResults(
        title="A bench <of> one & all",
        command="foreseer bench 'a model' --prompts \"x y.txt\" && echo `done`",
        environment={"torch": "2.9", "device": "<none>"},
        model="tiny",
        steps=30,
        video=False,
        prompts=["a red apple", HOSTILE],
        seeds=[7, 8],
        measures=measures,
        rows=rows,
        notes=["Random <weights>."],
    )


def draw_pictures(results, folder):
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for one in results.rows:
        for name in one.pictures:
            pixels = generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
