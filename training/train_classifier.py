"""Train the judge: a small network that names a picture's icon and its background.

It sees real renderings only, slightly blurred and with noise, never a generated picture.
Writes ``classifier.pt``; its accuracy is measured on renderings of another seed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common import WORK, Budget, refresh_threads, save_atomically, scheduled_rate, set_rate, to_unit
from icons import COLOUR_NAMES, load_icons, render_pool

CHANNELS = (32, 64, 128, 192)
POOL_SEED = 11
HELD_OUT_SEED = 12
HELD_OUT = 2254
WARMUP_STEPS = 50
DECAY_SHARE = 0.6
MAX_NOISE = 0.15
BLUR_CHANCE = 0.4


class Classifier(nn.Module):
    """Four strided convolutions and two linear heads: icon and background colour."""

    def __init__(self, icon_count):
        super().__init__()
        layers, previous = [], 3
        for channels in CHANNELS:
            layers += [
                nn.Conv2d(previous, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            previous = channels
        layers += [nn.Conv2d(previous, previous, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.icon = nn.Linear(previous * 2, icon_count)
        self.colour = nn.Linear(previous * 2, len(COLOUR_NAMES))

    def forward(self, images):
        """Return the logits of the icons and of the colours of images in [-1, 1]."""
        features = self.features(images)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return self.icon(pooled), self.colour(pooled)


def disturb(images):
    """Blur some of the images and add noise of random strength to each."""
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(images), 1, 1, 1) * (torch.rand(len(images), 1, 1, 1) < BLUR_CHANCE)
    strength = torch.rand(len(images), 1, 1, 1) * MAX_NOISE
    return torch.lerp(images, blurred, share) + strength * torch.randn_like(images)


@torch.no_grad()
def classify(model, images, batch_size=256):
    """Return the (icon, colour) numbers that the model names for uint8 images."""
    model.eval()
    logits = [model(to_unit(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]
    icon, colour = (torch.cat(column).argmax(1).numpy() for column in zip(*logits, strict=True))
    return icon, colour


def load_classifier(path):
    """Return (model, names of its icons) from a ``classifier.pt``."""
    state = torch.load(path)
    model = Classifier(len(state["names"]))
    model.load_state_dict(state["model"])
    return model.eval(), state["names"]


def train(model, pool, args):
    """Train for the given time on the pool's renderings."""
    images, which, colour = pool
    which, colour = torch.from_numpy(which), torch.from_numpy(colour)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    rng, budget, step, mark = np.random.default_rng(POOL_SEED), Budget(args.minutes), 0, time.time()
    while budget.fraction() < 1.0:
        refresh_threads(args.threads_file, step)
        set_rate(
            optimizer,
            scheduled_rate(args.lr, step, WARMUP_STEPS, budget.fraction(), DECAY_SHARE),
        )
        index = rng.integers(0, len(images), args.batch_size)
        batch = disturb(to_unit(images[index]))
        with torch.autocast("cpu", torch.bfloat16):
            icon_logits, colour_logits = model(batch)
        loss = functional.cross_entropy(icon_logits.float(), which[index], label_smoothing=0.05)
        loss = loss + 0.3 * functional.cross_entropy(colour_logits.float(), colour[index])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            speed, mark = 100 * args.batch_size / (time.time() - mark), time.time()
            print(f"step {step} loss {loss.item():.4f} {speed:.0f} images/s", flush=True)


def main():
    """Parse the command line, train, measure and write the classifier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of the icons")
    parser.add_argument("--work", type=Path, default=WORK, help="folder to write to")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--pool", type=int, default=50000, help="number of pictures rendered")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(POOL_SEED)
    icons = load_icons(args.source)
    model = Classifier(len(icons))
    train(model, render_pool(icons, args.pool, POOL_SEED), args)
    images, which, colour = render_pool(icons, HELD_OUT, HELD_OUT_SEED)
    named_icon, named_colour = classify(model, images)
    accuracy = {
        "icon": float((named_icon == which).mean()),
        "colour": float((named_colour == colour).mean()),
        "pictures": HELD_OUT,
    }
    print(f"accuracy on held-out renderings: {accuracy}")
    state = {"model": model.state_dict(), "names": [icon.name for icon in icons], "accuracy": accuracy}
    save_atomically(state, args.work / "classifier.pt")


if __name__ == "__main__":
    main()
