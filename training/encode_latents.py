"""Encode a large pool of random renderings once, so that the transformer's training
needs neither rendering nor the autoencoder.

Writes ``latents.pt``: normalised latents packed as FluxPipeline packs them
(n, 64 tokens, 32 channels) in float16, with icon and colour numbers.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline

from common import WORK, save_atomically
from icons import load_icons, render_pool
from train_vae import encode

CHUNK = 4096
POOL_SEED = 100


def packed_latents(vae, images):
    """Return the images' normalised latents, packed into tokens, as float16."""
    latents = (encode(vae, images) - vae.config.shift_factor) * vae.config.scaling_factor
    return FluxPipeline._pack_latents(latents, *latents.shape).half()


def main():
    """Parse the command line, render, encode and write the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of the icons")
    parser.add_argument("--work", type=Path, default=WORK, help="folder holding vae")
    parser.add_argument("--start", type=Path, help="exported pipeline folder whose autoencoder to use instead")
    parser.add_argument("--count", type=int, default=131072)
    args = parser.parse_args()
    icons = load_icons(args.source)
    vae = AutoencoderKL.from_pretrained((args.start or args.work) / "vae").eval()
    parts = []
    for chunk, start in enumerate(range(0, args.count, CHUNK)):
        size = min(CHUNK, args.count - start)
        images, which, colour = render_pool(icons, size, POOL_SEED + chunk)
        latents = packed_latents(vae, images)
        parts.append((latents, torch.from_numpy(which), torch.from_numpy(colour)))
        print(f"{start + size} of {args.count}", flush=True)
    latents, which, colour = (torch.cat(column) for column in zip(*parts, strict=True))
    pool = {"latents": latents, "icon": which, "colour": colour}
    save_atomically({**pool, "names": [icon.name for icon in icons]}, args.work / "latents.pt")
    print(f"mean {latents.float().mean():.4f}, standard deviation {latents.float().std():.4f}")


if __name__ == "__main__":
    main()
