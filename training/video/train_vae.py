"""Train the autoencoder: 9 frames of 32x32 RGB to 5 latent frames of 4x4 with 24 channels.

Writes ``vae.pt`` (a checkpoint to resume from) and, at the end, the folder ``vae``
in diffusers' format, with the mean and the deviation of each latent channel.
With ``--decoder-only`` it trains that folder's decoder further (checkpoint
``decoder.pt``), its encoder and therefore all latents left as they are.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from common import to_uint8
from flat_muon import FlatMuon
from train_vae import HELD_OUT_SEED, POOL_SEED, START_LOG_VARIANCE, STATISTICS_COUNT, encode, train
from video.data import load_things, render_pool, strips

CHANNELS = 24
PATCH = 4
HELD_OUT = 512
SHEET = 48


def build_vae():
    """Return the untrained autoencoder, its latents nearly free of noise at the start.

    Pixels come in patches of 4x4; one level halves height, width and time, so that frame 0
    makes the first latent frame and every two frames after it another.
    """
    vae = AutoencoderKLWan(
        base_dim=64,
        z_dim=CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=0,
        temperal_downsample=[True],
        is_residual=True,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_temporal=2,
        scale_factor_spatial=2 * PATCH,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )
    head = vae.quant_conv
    torch.nn.init.zeros_(head.weight.data[CHANNELS:])
    torch.nn.init.constant_(head.bias.data[CHANNELS:], START_LOG_VARIANCE)
    return vae


def set_latent_statistics(vae, videos):
    """Set the mean and the deviation of each channel that give latents mean 0 and variance 1."""
    latents = encode(vae, videos).movedim(1, 0).flatten(1)
    mean, deviation = latents.mean(1), latents.std(1)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    print(f"latent means up to {mean.abs().max():.3f}, deviations {deviation.min():.3f} to {deviation.max():.3f}")


@torch.no_grad()
def reconstruct(vae, videos):
    """Return the uint8 videos that come back from the latents' means."""
    return np.concatenate([to_uint8(vae.decode(part).sample) for part in encode(vae, videos).split(64)])


def report(vae, videos, folder):
    """Print the reconstruction PSNR of held-out videos and write a contact sheet."""
    rebuilt = reconstruct(vae, videos)
    error = ((videos.astype(np.float64) - rebuilt) ** 2).mean(axis=(1, 2, 3, 4))
    psnr = 10 * np.log10(255.0**2 / error)
    by_frame = 10 * np.log10(255.0**2 / ((videos.astype(np.float64) - rebuilt) ** 2).mean(axis=(0, 2, 3, 4)))
    print(f"held-out PSNR {psnr.mean():.2f} dB, worst tenth below {np.quantile(psnr, 0.1):.2f}")
    print("of each frame's mean error: " + " ".join(f"{value:.1f}" for value in by_frame))
    pairs = np.stack([strips(videos[:SHEET]), strips(rebuilt[:SHEET])], axis=1)
    contact_sheet(pairs.reshape(2 * SHEET, *pairs.shape[2:]), 2, 2).save(folder / "vae.png")


def main():
    """Parse the command line, train, measure and write the autoencoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of emoji_u{hex}.png files")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--pool", type=int, default=12000, help="number of videos rendered")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(POOL_SEED)
    pictures = load_things(args.source)[1]
    videos = render_pool(pictures, args.pool, POOL_SEED)[0]
    if args.decoder_only:
        vae = AutoencoderKLWan.from_pretrained(args.work / "vae")
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        train(vae, videos, args, args.work / "decoder.pt", FlatMuon)
    else:
        vae = build_vae()
        train(vae, videos, args, args.work / "vae.pt", FlatMuon)
        set_latent_statistics(vae, videos[:STATISTICS_COUNT])
    report(vae, render_pool(pictures, HELD_OUT, HELD_OUT_SEED)[0], args.work)
    vae.save_pretrained(args.work / "vae")


if __name__ == "__main__":
    main()
