"""Write a trained checkpoint as a folder that ``WanPipeline.from_pretrained`` loads.

The moving average of the weights is stored in float16. The text encoder's file says
float32, so that a plain ``from_pretrained`` gives the whole pipeline one precision.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

from export import export, load_average
from text_models import TEXT_TOKENS
from video.data import FRAMES, SIDE
from video.train_transformer import build_models

SHIFT = 3.0
PROMPTS = (
    "a red apple moving left on a blue background",
    "a rocket moving up on a black background",
    "a panda face growing on a pink background",
    "a fox face bouncing on a green background",
    "a guitar turning on a white background",
    "an octopus shrinking on a black background",
    "a tractor moving right on a pink background",
    "a droplet moving down on a white background",
    "a crown bouncing on a blue background",
    "a carrot turning on a black background",
    "a ghost growing on a green background",
    "a birthday cake moving left on a white background",
)
SAMPLING = {
    "height": SIDE,
    "width": SIDE,
    "num_frames": FRAMES,
    "max_sequence_length": TEXT_TOKENS,
    "num_inference_steps": 50,
}


def assemble(work):
    """Return the pipeline of the checkpoints in a work folder, in float32."""
    pool = torch.load(next(iter(sorted(work.glob("latents*.pt")))), mmap=True)
    networks, tokenizer = build_models(pool["names"])
    load_average(networks, work / "transformer.pt")
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=networks.text_encoder,
        vae=AutoencoderKLWan.from_pretrained(work / "vae"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        transformer=networks.transformer,
    )


def main():
    """Parse the command line, assemble and write the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale to put among the defaults")
    args = parser.parse_args()
    sampling = {**SAMPLING, "guidance_scale": args.guidance, "prompts": list(PROMPTS)}
    export(assemble(args.work), args.output, sampling, torch.float16)


if __name__ == "__main__":
    main()
