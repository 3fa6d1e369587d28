"""Evaluate a pipeline: how often a classifier recognises the caption, and how whole shapes are.

The captions and the noise seeds are drawn from ``EVALUATION_SEED``; use another ``--seed`` while
developing. Writes a JSON report and, for every way of guidance, a contact sheet.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline

from common import WORK, to_uint8
from icons import COLOUR_NAMES, caption, contact_sheet, load_icons, render_pool
from shape import shape_psnr, summary
from text_models import TEXT_TOKENS
from train_classifier import HELD_OUT_SEED, classify, load_classifier
from train_vae import encode

EVALUATION_SEED = 20260
STEPS = 50
SIDE = 64
BATCH_SIZE = 40
SHEET_COLUMNS = 20
SHEET_SCALE = 4
RECONSTRUCTIONS = 1127
GUIDANCE = {
    "guided": {"guidance_scale": 3.5},
    "true_cfg": {"guidance_scale": 1.0, "true_cfg_scale": 3.5},
    "none": {"guidance_scale": 1.0},
}


def draw_tasks(icons, count, seed):
    """Return (icon number, colour number, noise seed) rows, an icon at most once per pass."""
    rng = np.random.default_rng(seed)
    passes = -(-count // len(icons))
    which = np.concatenate([rng.permutation(len(icons)) for _ in range(passes)])[:count]
    colour = np.array([rng.choice(icons[icon].colours) for icon in which])
    return np.stack([which, colour, rng.integers(0, 2**31, count)], axis=1)


def generate(pipeline, captions, seeds, guidance):
    """Return the uint8 pictures of the captions, each from its own noise seed."""
    pictures = []
    for start in range(0, len(captions), BATCH_SIZE):
        part = captions[start : start + BATCH_SIZE]
        output = pipeline(
            part,
            negative_prompt=[""] * len(part) if "true_cfg_scale" in guidance else None,
            height=SIDE,
            width=SIDE,
            max_sequence_length=TEXT_TOKENS,
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[start : start + BATCH_SIZE]],
            output_type="np",
            **guidance,
        )
        pictures.append((output.images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def shapes(pictures, icons, which, colour):
    """Return the shape measure of each picture in dB."""
    rows = zip(pictures, which, colour, strict=True)
    return np.array([shape_psnr(picture, icons[i], COLOUR_NAMES[c]) for picture, i, c in rows])


def judge(pictures, icons, which, colour, classifier):
    """Return the report of pictures whose captions are known."""
    named_icon, named_colour = classify(classifier, pictures)
    right, decibels = named_icon == which, shapes(pictures, icons, which, colour)
    return {
        "icon_accuracy": float(right.mean()),
        "colour_accuracy": float((named_colour == colour).mean()),
        "shape_decibels": summary(decibels),
        "share_above_18_decibels": float((decibels > 18.0).mean()),
        "wrong_icons": [
            f"{caption(icons[which[i]].name, COLOUR_NAMES[colour[i]])}: seen as {icons[named_icon[i]].name}"
            for i in np.flatnonzero(~right)
        ],
        "worst_shapes": [
            f"{caption(icons[which[i]].name, COLOUR_NAMES[colour[i]])}: {decibels[i]:.1f}"
            for i in np.argsort(decibels)[:10]
        ],
    }


@torch.no_grad()
def judge_reconstructions(vae, icons, classifier):
    """Return the report of real renderings that went through the autoencoder: the ceiling."""
    images, which, colour = render_pool(icons, RECONSTRUCTIONS, HELD_OUT_SEED)
    rebuilt = np.concatenate([to_uint8(vae.decode(part).sample) for part in encode(vae, images).split(128)])
    error = ((images.astype(np.float64) - rebuilt) ** 2).mean(axis=(1, 2, 3))
    report = judge(rebuilt, icons, which, colour, classifier)
    return {"pictures": RECONSTRUCTIONS, "psnr": summary(10 * np.log10(255.0**2 / error)), **report}


def main():
    """Parse the command line, generate, judge and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of the icons")
    parser.add_argument("--pipeline", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--work", type=Path, default=WORK, help="folder holding classifier.pt")
    parser.add_argument("--output", type=Path, required=True, help="report without its suffix")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--ceiling", action="store_true", help="also judge the autoencoder alone")
    args = parser.parse_args()
    icons = load_icons(args.source)
    classifier = load_classifier(args.work / "classifier.pt")[0]
    judged = torch.load(args.work / "classifier.pt")["accuracy"]
    pipeline = FluxPipeline.from_pretrained(args.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    which, colour, seeds = draw_tasks(icons, args.count, args.seed).T
    captions = [caption(icons[i].name, COLOUR_NAMES[c]) for i, c in zip(which, colour, strict=True)]
    report = {"pictures": args.count, "seed": args.seed, "num_inference_steps": STEPS}
    report |= {"classifier_on_held_out_renderings": judged, "results": {}}
    for name in args.guidance:
        started = time.monotonic()
        pictures = generate(pipeline, captions, seeds, GUIDANCE[name])
        row = {**GUIDANCE[name], **judge(pictures, icons, which, colour, classifier)}
        row["seconds"] = round(time.monotonic() - started, 1)
        report["results"][name] = row
        print(name, json.dumps(row, indent=1), flush=True)
        sheet = contact_sheet(pictures, SHEET_COLUMNS, SHEET_SCALE)
        sheet.quantize(256).save(args.output.with_name(f"{args.output.name}-{name}.png"), optimize=True)
    if args.ceiling:
        report["reconstructions"] = judge_reconstructions(pipeline.vae, icons, classifier)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
