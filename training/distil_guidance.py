"""Distil classifier-free guidance into the guidance embedding, as FLUX.1-dev has it.

The teacher is an exported pipeline folder, at guidance scale 1. The student starts from it and at
(x, sigma, caption, w), w uniform in [1, 5], follows teacher(x, sigma, "") + w (teacher(x, sigma,
caption) - teacher(x, sigma, "")); the empty caption has the same target at every w. Writes
``guided.pt``, a checkpoint to resume from and to export.
"""

import argparse
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import WORK
from train_transformer import SEED, compile_repeated, load_models, read_batches, train

GUIDANCE_RANGE = (1.0, 5.0)
PLAIN_SHARE = 0.15
WARMUP_STEPS = 20


class GuidedBatches:
    """Batches whose target is the teacher's guided velocity instead of noise minus data."""

    def __init__(self, batches, teacher):
        self._batches, self._teacher = batches, teacher
        self.generator, self.tables = batches.generator, batches.tables

    @torch.no_grad()
    def draw(self):
        """Return (noisy latents, sigma, CLIP ids, T5 ids, guidance scale, the teacher's guided velocity)."""
        noisy, sigma, clip_ids, t5_ids, _ = self._batches.draw()
        random = {"generator": self.generator}
        least, most = GUIDANCE_RANGE
        scale = least + (most - least) * torch.rand(sigma.shape, **random)
        scale[torch.rand(sigma.shape, **random) < PLAIN_SHARE] = 1.0
        empty = [table[-1:].expand(len(sigma), -1) for table in self.tables]
        twice = [noisy, sigma, clip_ids, t5_ids], [noisy, sigma, *empty]
        with torch.autocast("cpu", torch.bfloat16):
            output = self._teacher(*(torch.cat(pair) for pair in zip(*twice, strict=True)))
        captioned, uncaptioned = output.float().chunk(2)
        target = uncaptioned + scale.view(-1, 1, 1) * (captioned - uncaptioned)
        return noisy, sigma, clip_ids, t5_ids, scale, target


@torch.no_grad()
def add_progress(student, before, after):
    """Add to the student's weights what its teacher's have gained from one training to the next."""
    for own, old, new in zip(student.parameters(), before.parameters(), after.parameters(), strict=True):
        own.add_(new - old)


def main():
    """Parse the command line and train the student."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder holding latents.pt")
    parser.add_argument("--teacher", type=Path, required=True, help="exported pipeline of the base training")
    parser.add_argument("--start", type=Path, help="exported pipeline of an earlier student; default: the teacher")
    parser.add_argument("--earlier-teacher", type=Path, help="of that student: it moves by what the teacher has gained")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    teacher = load_models(args.teacher)[0].eval().requires_grad_(False)
    networks, clip_tokenizer, t5_tokenizer = load_models(args.start or args.teacher)
    if args.earlier_teacher:
        add_progress(networks, load_models(args.earlier_teacher)[0], teacher)
    pool = torch.load(args.work / "latents.pt", mmap=True)
    batches = read_batches(pool, clip_tokenizer, t5_tokenizer, args.batch_size)
    if args.compile:
        compile_repeated(teacher)
    with sdpa_kernel(SDPBackend.MATH):
        train(networks, GuidedBatches(batches, teacher), args, args.work / "guided.pt", WARMUP_STEPS)


if __name__ == "__main__":
    main()
