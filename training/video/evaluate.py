"""Judge a pipeline: does the judge see in its videos what the captions say?

The captions and the noise seeds are drawn from ``EVALUATION_SEED``; use another
``--seed`` while developing. Writes a JSON report and a contact sheet.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline
from PIL import Image, ImageDraw

from evaluate import EVALUATION_SEED
from train_classifier import HELD_OUT_SEED
from video.data import COLOUR_NAMES, MOTIONS, caption, load_things, render_pool, strips
from video.train_judge import LABELS, classify, load_judge
from video.train_vae import reconstruct

BATCH_SIZE = 50
SHEET_COLUMNS = 4
LABEL_HEIGHT = 12
RECONSTRUCTIONS = 1280


def draw_tasks(things, count, seed):
    """Return (labels (count, 3), noise seeds (count,)), things and motions each equally often."""
    rng = np.random.default_rng(seed)

    def shuffled(choices):
        passes = -(-count // choices)
        return np.concatenate([rng.permutation(choices) for _ in range(passes)])[:count]

    labels = np.stack([shuffled(things), shuffled(len(MOTIONS)), rng.integers(0, len(COLOUR_NAMES), count)], axis=1)
    return labels, rng.integers(0, 2**31, count)


def generate(pipeline, captions, seeds, guidance):
    """Return the uint8 videos of the captions, each from its own noise seed."""
    defaults = json.loads((Path(pipeline.name_or_path) / "sampling.json").read_text())
    defaults.pop("prompts")
    videos = []
    for start in range(0, len(captions), BATCH_SIZE):
        noise = [torch.Generator().manual_seed(int(seed)) for seed in seeds[start : start + BATCH_SIZE]]
        options = {**defaults, "guidance_scale": guidance, "generator": noise, "output_type": "np"}
        frames = pipeline(captions[start : start + BATCH_SIZE], **options).frames
        videos.append((frames * 255).round().astype(np.uint8))
    return np.concatenate(videos)


def measure(pipeline, judge, names, tasks, guidance):
    """Return (report row, videos) for one guidance scale."""
    labels, seeds = tasks
    captions = [caption(names[t], MOTIONS[m], COLOUR_NAMES[c]) for t, m, c in labels]
    started = time.monotonic()
    videos = generate(pipeline, captions, seeds, guidance)
    named = classify(judge, videos)
    right = named == labels
    words = (names, MOTIONS, COLOUR_NAMES)
    row = {"guidance_scale": guidance}
    row |= {f"{label}_accuracy": float(part.mean()) for label, part in zip(LABELS, right.T, strict=True)}
    row |= {"all_accuracy": float(right.all(axis=1).mean()), "seconds": round(time.monotonic() - started, 1)}
    row["wrong"] = [
        f"{captions[i]}: seen as " + ", ".join(words[k][named[i, k]] for k in range(3) if not right[i, k])
        for i in np.flatnonzero(~right.all(axis=1))
    ]
    return row, videos, captions


def labelled_sheet(videos, captions):
    """Tile the videos' frames with each caption above its strip."""
    pictures = strips(videos)
    height, width = pictures.shape[1] + LABEL_HEIGHT, pictures.shape[2] + 4
    sheet = Image.new("RGB", (width * SHEET_COLUMNS, height * -(-len(videos) // SHEET_COLUMNS)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, words) in enumerate(zip(pictures, captions, strict=True)):
        left, top = i % SHEET_COLUMNS * width, i // SHEET_COLUMNS * height
        draw.text((left + 1, top), words, fill="black", font_size=10)
        sheet.paste(Image.fromarray(picture), (left, top + LABEL_HEIGHT))
    return sheet


def judge_reconstructions(vae, judge, source):
    """Return the judge's accuracy on real renderings that went through the autoencoder."""
    videos, labels = render_pool(load_things(source)[1], RECONSTRUCTIONS, HELD_OUT_SEED)
    right = (classify(judge, reconstruct(vae, videos)) == labels).mean(axis=0)
    return {**dict(zip(LABELS, right.tolist(), strict=True)), "videos": RECONSTRUCTIONS}


def main():
    """Parse the command line, generate, judge and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--work", type=Path, required=True, help="folder holding judge.pt")
    parser.add_argument("--output", type=Path, required=True, help="report without its suffix")
    parser.add_argument("--source", help="folder or tar of the emoji, to judge reconstructions too")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    args = parser.parse_args()
    judge, names, judged = load_judge(args.work / "judge.pt")
    pipeline = WanPipeline.from_pretrained(args.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    tasks = draw_tasks(len(names), args.count, args.seed)
    rows = []
    for scale in args.scales:
        row, videos, captions = measure(pipeline, judge, names, tasks, scale)
        rows.append(row)
        print({key: value for key, value in row.items() if key != "wrong"}, flush=True)
        if scale == args.scales[0]:
            sheet = labelled_sheet(videos, captions)
            sheet.quantize(256).save(args.output.with_suffix(".png"), optimize=True)
    report = {"videos": args.count, "seed": args.seed, "num_inference_steps": 50}
    report |= {"judge_on_held_out_renderings": judged, "results": rows}
    if args.source:
        report["judge_on_reconstructions"] = judge_reconstructions(pipeline.vae, judge, args.source)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
