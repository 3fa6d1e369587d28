"""Train the autoencoder: 64x64 RGB pictures to 8-channel latents of 16x16.

Writes ``vae.pt`` (a checkpoint to resume from) and, at the end, the folder ``vae``
in diffusers' format, its scaling and shift set so that latents have unit variance.
With ``--decoder-only`` it trains that folder's decoder further (checkpoint
``decoder.pt``) on latents with noise of random strength, so that it forgives errors of the
transformer; the encoder and therefore all latents stay as they are.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from common import (
    WORK,
    Budget,
    as_pictures,
    refresh_threads,
    save_atomically,
    scheduled_rate,
    set_rate,
    to_uint8,
    to_unit,
)
from flat_muon import FlatMuon
from icons import contact_sheet, load_icons, render_pool

WARMUP_STEPS = 100
DECAY_SHARE = 0.4
EDGE_WEIGHT = 0.5
COARSE_WEIGHT = 0.5
KL_WEIGHT = 1e-3
START_LOG_VARIANCE = -6.0
DECODER_LATENT_NOISE = 0.4
POOL_SEED = 1
HELD_OUT_SEED = 2
HELD_OUT = 1024
STATISTICS_COUNT = 8192


def build_vae():
    """Return the untrained autoencoder, its latents nearly free of noise at the start."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    head, channels = vae.encoder.conv_out, vae.config.latent_channels
    torch.nn.init.zeros_(head.weight.data[channels:])
    torch.nn.init.constant_(head.bias.data[channels:], START_LOG_VARIANCE)
    return vae


def reconstruction_loss(output, target):
    """L1 of pixels, of their horizontal and vertical differences and of 4x4 averages, per frame."""
    output, target = as_pictures(output), as_pictures(target)
    pixels = functional.l1_loss(output, target)
    edges = functional.l1_loss(output.diff(dim=2), target.diff(dim=2))
    edges = edges + functional.l1_loss(output.diff(dim=3), target.diff(dim=3))
    coarse = functional.l1_loss(functional.avg_pool2d(output, 4), functional.avg_pool2d(target, 4))
    return pixels + EDGE_WEIGHT * edges + COARSE_WEIGHT * coarse


def forward_loss(vae, batch, latent_noise):
    """Return (training loss, reconstruction loss, KL per latent value) of one batch."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(batch).latent_dist
        latents = posterior.sample()
        strength = latent_noise * torch.rand(len(latents), *[1] * (latents.ndim - 1))
        latents = latents + strength * torch.randn_like(latents)
        output = vae.decode(latents).sample
    rebuilt = reconstruction_loss(output.float(), batch)
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()
    return rebuilt + KL_WEIGHT * divergence, rebuilt, divergence


@torch.no_grad()
def encode(vae, images, batch_size=256):
    """Return the posterior means (n, 8, 16, 16) of uint8 images."""
    means = []
    for start in range(0, len(images), batch_size):
        batch = to_unit(images[start : start + batch_size])
        with torch.autocast("cpu", torch.bfloat16):
            means.append(vae.encode(batch).latent_dist.mean.float())
    return torch.cat(means)


def set_latent_statistics(vae, images):
    """Set the scaling and the shift that give the images' latents mean 0 and variance 1."""
    latents = encode(vae, images)
    mean, deviation = latents.mean().item(), latents.std().item()
    vae.register_to_config(scaling_factor=1.0 / deviation, shift_factor=mean)
    print(f"latent mean {mean:.4f}, standard deviation {deviation:.4f}")


@torch.no_grad()
def report(vae, images, folder):
    """Print the reconstruction PSNR of held-out pictures and write a contact sheet."""
    latents = encode(vae, images)
    rebuilt = np.concatenate([to_uint8(vae.decode(part).sample) for part in latents.split(128)])
    error = ((images.astype(np.float64) - rebuilt) ** 2).mean(axis=(1, 2, 3))
    psnr = 10 * np.log10(255.0**2 / error)
    print(f"held-out PSNR {psnr.mean():.2f} dB, worst tenth below {np.quantile(psnr, 0.1):.2f}")
    rows = [images[:48].reshape(4, 12, 64, 64, 3), rebuilt[:48].reshape(4, 12, 64, 64, 3)]
    pairs = np.concatenate(rows, axis=1).reshape(-1, 64, 64, 3)
    contact_sheet(pairs, 12, 2).save(folder / "vae.png")


def build_optimizer(parameters, rate):
    """Return the optimizer of the autoencoder."""
    return FlatMuon(parameters, rate)


def train(vae, images, args, checkpoint, optimizer_of=build_optimizer):
    """Train on pictures or videos until the time budget is spent; resumes from a checkpoint."""
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = optimizer_of(parameters, args.lr)
    latent_noise = DECODER_LATENT_NOISE if args.decoder_only else 0.0
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng((POOL_SEED, step))
    budget, mark = Budget(args.minutes, spent), time.monotonic()

    def save():
        state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically({**state, "step": step, "spent": budget.spent()}, checkpoint)

    while budget.fraction() < 1.0:
        refresh_threads(args.threads_file, step)
        rate = scheduled_rate(args.lr, step, WARMUP_STEPS, budget.fraction(), DECAY_SHARE)
        set_rate(optimizer, rate)
        batch = to_unit(images[rng.integers(0, len(images), args.batch_size)])
        loss, rebuilt, divergence = forward_loss(vae, batch, latent_noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            speed = 100 * args.batch_size / (time.monotonic() - mark)
            mark = time.monotonic()
            print(
                f"step {step} {budget.spent():.0f} s lr {rate:.2e} rebuilt {rebuilt.item():.4f} "
                f"kl {divergence.item():.3f} {speed:.0f} images/s",
                flush=True,
            )
        if step % 500 == 0:
            save()
    save()


def main():
    """Parse the command line, train, measure and write the autoencoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of the icons")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints")
    parser.add_argument("--start", type=Path, help="exported pipeline folder to start from")
    parser.add_argument("--minutes", type=float, default=22.0)
    parser.add_argument("--pool", type=int, default=40000, help="number of pictures rendered")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(POOL_SEED)
    icons = load_icons(args.source)
    images = render_pool(icons, args.pool, POOL_SEED)[0]
    if args.decoder_only:
        vae = AutoencoderKL.from_pretrained((args.start or args.work) / "vae")
        vae.encoder.requires_grad_(False)
        train(vae, images, args, args.work / "decoder.pt")
    else:
        vae = AutoencoderKL.from_pretrained(args.start / "vae") if args.start else build_vae()
        train(vae, images, args, args.work / "vae.pt")
        set_latent_statistics(vae, images[:STATISTICS_COUNT])
    report(vae, render_pool(icons, HELD_OUT, HELD_OUT_SEED)[0], args.work)
    vae.save_pretrained(args.work / "vae")


if __name__ == "__main__":
    main()
