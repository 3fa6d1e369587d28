"""Train the judge: a small network that names a video's thing, its motion and its background.

It sees real renderings only, slightly blurred and with noise, never a generated video.
Writes ``judge.pt``; its accuracy is measured on renderings of another seed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common import Budget, as_pictures, refresh_threads, save_atomically, scheduled_rate, set_rate, to_unit
from train_classifier import DECAY_SHARE, HELD_OUT_SEED, POOL_SEED, WARMUP_STEPS, disturb
from video.data import COLOUR_NAMES, FRAMES, MOTIONS, load_things, render_pool

LABELS = ("thing", "motion", "colour")
CHANNELS = (24, 48, 96)
WIDTH = 128
HELD_OUT = 2560


class Judge(nn.Module):
    """Strided convolutions per frame; thing and colour from pooled frames, motion from their order."""

    def __init__(self, things):
        super().__init__()
        layers, previous = [], 3
        for channels in CHANNELS:
            layers += [nn.Conv2d(previous, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            previous = channels
        self.features = nn.Sequential(*layers)
        self.look = nn.Sequential(nn.Conv2d(previous, WIDTH, 3, padding=1), nn.ReLU())
        self.thing = nn.Linear(2 * WIDTH, things)
        self.colour = nn.Linear(2 * WIDTH, len(COLOUR_NAMES))
        self.place = nn.Sequential(nn.Flatten(), nn.Linear(previous * 16, 32), nn.ReLU())
        self.motion = nn.Sequential(nn.Linear(32 * FRAMES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, len(MOTIONS)))

    def forward(self, frames):
        """Return the logits of things, motions and colours of videos as frames (n * 9, 3, 32, 32) in [-1, 1]."""
        features = self.features(frames)
        look = self.look(features).unflatten(0, (-1, FRAMES))
        pooled = torch.cat([look.mean((1, 3, 4)), look.amax((1, 3, 4))], dim=1)
        motion = self.motion(self.place(features).unflatten(0, (-1, FRAMES)).flatten(1))
        return self.thing(pooled), motion, self.colour(pooled)


@torch.no_grad()
def classify(judge, videos, batch_size=128):
    """Return the labels (n, 3) that the judge names for uint8 videos: thing, motion, colour."""
    judge.eval()
    parts = [as_pictures(to_unit(videos[i : i + batch_size])) for i in range(0, len(videos), batch_size)]
    named = [torch.stack([logits.argmax(1) for logits in judge(part)], dim=1) for part in parts]
    return torch.cat(named).numpy()


def load_judge(path):
    """Return (judge, names of the things, accuracy on held-out renderings) from a ``judge.pt``."""
    state = torch.load(path)
    judge = Judge(len(state["names"]))
    judge.load_state_dict(state["model"])
    return judge.eval(), state["names"], state["accuracy"]


def train(judge, videos, labels, args):
    """Train for the given time on the pool's renderings."""
    labels = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02)
    rng, budget, step, mark = np.random.default_rng(POOL_SEED), Budget(args.minutes), 0, time.time()
    while budget.fraction() < 1.0:
        refresh_threads(args.threads_file, step)
        set_rate(optimizer, scheduled_rate(args.lr, step, WARMUP_STEPS, budget.fraction(), DECAY_SHARE))
        index = rng.integers(0, len(videos), args.batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            named = judge(disturb(as_pictures(to_unit(videos[index]))))
        loss = sum(
            functional.cross_entropy(logits.float(), target, label_smoothing=0.05)
            for logits, target in zip(named, labels[index].T, strict=True)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            speed, mark = 100 * args.batch_size / (time.time() - mark), time.time()
            print(f"step {step} loss {loss.item():.4f} {speed:.0f} videos/s", flush=True)


def main():
    """Parse the command line, train, measure and write the judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of emoji_u{hex}.png files")
    parser.add_argument("--work", type=Path, required=True, help="folder to write to")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--pool", type=int, default=15360, help="number of videos rendered")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(POOL_SEED)
    names, pictures = load_things(args.source)
    judge = Judge(len(names))
    train(judge, *render_pool(pictures, args.pool, POOL_SEED), args)
    videos, labels = render_pool(pictures, HELD_OUT, HELD_OUT_SEED)
    right = (classify(judge, videos) == labels).mean(axis=0)
    accuracy = {**dict(zip(LABELS, right.tolist(), strict=True)), "videos": HELD_OUT}
    print(f"accuracy on held-out renderings: {accuracy}")
    save_atomically({"model": judge.state_dict(), "names": names, "accuracy": accuracy}, args.work / "judge.pt")


if __name__ == "__main__":
    main()
