"""Judge a pipeline: does the classifier see in its pictures what the captions say?

The captions and the noise seeds are drawn from ``EVALUATION_SEED``; use another
``--seed`` while developing. Writes a JSON report and a contact sheet.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline

from common import to_uint8
from emoji_data import COLOUR_NAMES, caption, contact_sheet, load_emoji, render_pool
from train_classifier import HELD_OUT_SEED, classify, load_classifier
from train_vae import encode

EVALUATION_SEED = 20260
BATCH_SIZE = 50
SHEET_COLUMNS = 20
RECONSTRUCTIONS = 1032


def draw_tasks(names, count, seed):
    """Return (emoji index, colour index, noise seed) rows, an emoji at most once per pass."""
    rng = np.random.default_rng(seed)
    passes = -(-count // len(names))
    which = np.concatenate([rng.permutation(len(names)) for _ in range(passes)])[:count]
    colour = rng.integers(0, len(COLOUR_NAMES), count)
    return np.stack([which, colour, rng.integers(0, 2**31, count)], axis=1)


def generate(pipeline, captions, seeds, true_cfg_scale):
    """Return the uint8 pictures of the captions, each from its own noise seed."""
    defaults = json.loads((Path(pipeline.name_or_path) / "sampling.json").read_text())
    defaults.pop("prompts")
    pictures = []
    for start in range(0, len(captions), BATCH_SIZE):
        part = captions[start : start + BATCH_SIZE]
        guided = true_cfg_scale > 1.0
        output = pipeline(
            part,
            negative_prompt=[""] * len(part) if guided else None,
            true_cfg_scale=true_cfg_scale,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[start : start + BATCH_SIZE]],
            output_type="np",
            **defaults,
        )
        pictures.append((output.images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def measure(pipeline, classifier, names, tasks, true_cfg_scale):
    """Return (report row, pictures) for one guidance scale."""
    which, colour, seeds = tasks.T
    captions = [caption(names[w], COLOUR_NAMES[c]) for w, c in zip(which, colour, strict=True)]
    started = time.monotonic()
    pictures = generate(pipeline, captions, seeds, true_cfg_scale)
    named_emoji, named_colour = classify(classifier, pictures)
    right_emoji, right_colour = named_emoji == which, named_colour == colour
    row = {
        "true_cfg_scale": true_cfg_scale,
        "emoji_accuracy": float(right_emoji.mean()),
        "colour_accuracy": float(right_colour.mean()),
        "both_accuracy": float((right_emoji & right_colour).mean()),
        "seconds": round(time.monotonic() - started, 1),
        "wrong_emoji": [f"{captions[i]}: seen as {names[named_emoji[i]]}" for i in np.flatnonzero(~right_emoji)],
    }
    return row, pictures


@torch.no_grad()
def judge_reconstructions(vae, classifier, source):
    """Return the classifier's accuracy on real renderings that went through the autoencoder."""
    images, which, colour = render_pool(load_emoji(source), RECONSTRUCTIONS, HELD_OUT_SEED)
    rebuilt = [to_uint8(vae.decode(part).sample) for part in encode(vae, images).split(128)]
    named_emoji, named_colour = classify(classifier, np.concatenate(rebuilt))
    accuracy = {"emoji": float((named_emoji == which).mean()), "colour": float((named_colour == colour).mean())}
    return {**accuracy, "pictures": RECONSTRUCTIONS}


def main():
    """Parse the command line, generate, judge and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--work", type=Path, required=True, help="folder holding classifier.pt")
    parser.add_argument("--output", type=Path, required=True, help="report without its suffix")
    parser.add_argument("--source", help="folder or tar of the emoji, to judge reconstructions too")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    args = parser.parse_args()
    classifier, names = load_classifier(args.work / "classifier.pt")
    judged = torch.load(args.work / "classifier.pt")["accuracy"]
    pipeline = FluxPipeline.from_pretrained(args.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    tasks = draw_tasks(names, args.count, args.seed)
    rows = []
    for scale in args.scales:
        row, pictures = measure(pipeline, classifier, names, tasks, scale)
        rows.append(row)
        print({key: value for key, value in row.items() if key != "wrong_emoji"}, flush=True)
        if scale == args.scales[0]:
            sheet = contact_sheet(pictures, SHEET_COLUMNS)
            sheet.quantize(256).save(args.output.with_suffix(".png"), optimize=True)
    report = {"pictures": args.count, "seed": args.seed, "num_inference_steps": 50}
    report |= {"classifier_on_held_out_renderings": judged, "results": rows}
    if args.source:
        report["classifier_on_reconstructions"] = judge_reconstructions(pipeline.vae, classifier, args.source)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
