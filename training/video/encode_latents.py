"""Encode a large pool of random videos once, so that the transformer's training needs
neither rendering nor the autoencoder.

Writes ``latents.pt``: normalised latents (n, 24, 5, 4, 4) in float16 with the labels
(thing, motion, colour) of each.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from common import save_atomically
from encode_latents import POOL_SEED
from train_vae import encode
from video.data import load_things, render_pool

CHUNK = 2048


def normalised_latents(vae, videos):
    """Return the videos' latents with each channel's mean taken off and its deviation made 1, as float16."""
    mean, deviation = (torch.tensor(vae.config[f"latents_{word}"]).view(1, -1, 1, 1, 1) for word in ("mean", "std"))
    return ((encode(vae, videos, 64) - mean) / deviation).half()


def main():
    """Parse the command line, render, encode and write the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of emoji_u{hex}.png files")
    parser.add_argument("--work", type=Path, required=True, help="folder holding vae")
    parser.add_argument("--count", type=int, default=65536)
    parser.add_argument("--first-chunk", type=int, default=0, help="number of the first chunk, to make another pool")
    parser.add_argument("--name", default="latents.pt", help="file to write")
    args = parser.parse_args()
    names, pictures = load_things(args.source)
    vae = AutoencoderKLWan.from_pretrained(args.work / "vae").eval()
    parts = []
    for chunk, start in enumerate(range(0, args.count, CHUNK), args.first_chunk):
        videos, labels = render_pool(pictures, min(CHUNK, args.count - start), POOL_SEED + chunk)
        parts.append((normalised_latents(vae, videos), torch.from_numpy(labels)))
        print(f"{start + len(labels)} of {args.count}", flush=True)
    latents, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    save_atomically({"latents": latents, "labels": labels, "names": names}, args.work / args.name)
    print(f"mean {latents.float().mean():.4f}, standard deviation {latents.float().std():.4f}")


if __name__ == "__main__":
    main()
