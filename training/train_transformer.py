"""Train the transformer and both text encoders, jointly, by flow matching.

Reads ``latents.pt`` (encode_latents.py), writes ``transformer.pt``: weights, their
moving average and the optimizer's state, to resume from and to export. With ``--start``
the weights come from an exported pipeline folder when there is no checkpoint yet.
The guidance embedding sees the scale 1 throughout; ``distil_guidance.py`` trains it.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import WORK, Budget, refresh_threads, save_atomically, scheduled_rate, set_rate
from icons import COLOUR_NAMES
from text_models import (
    TEXT_TOKENS,
    TEXT_WIDTH,
    all_captions,
    build_clip_encoder,
    build_clip_tokenizer,
    build_t5_encoder,
    build_t5_tokenizer,
    token_table,
)

WARMUP_STEPS = 150
DECAY_SHARE = 0.7
AVERAGE_DECAY = 0.995
CAPTION_DROPOUT = 0.1
SIGMA_LOGIT_MEAN = 0.6
UNIFORM_SHARE = 0.2
LATENT_TOKEN_SIDE = 8
LATENT_TOKEN_CHANNELS = 32
SAVE_STEPS = 250
NOT_MATRICES = ("embed", "norm", "shared", "relative_attention_bias")
SEED = 3


class TextToLatents(nn.Module):
    """The three trained networks, called as FluxPipeline calls them."""

    def __init__(self, transformer, text_encoder, text_encoder_2):
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        side = LATENT_TOKEN_SIDE
        image_ids = FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)
        self.register_buffer("image_ids", image_ids, persistent=False)
        self.register_buffer("text_ids", torch.zeros(TEXT_TOKENS, 3), persistent=False)

    def forward(self, latents, sigma, clip_ids, t5_ids, guidance=None):
        """Return the predicted velocity, noise minus data, of noisy packed latents."""
        return self.transformer(
            hidden_states=latents,
            timestep=sigma,
            guidance=torch.ones_like(sigma) if guidance is None else guidance,
            pooled_projections=self.text_encoder(clip_ids).pooler_output,
            encoder_hidden_states=self.text_encoder_2(t5_ids)[0],
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]


def build_transformer():
    """Return the untrained transformer; its modulations and its output start at zero."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_TOKEN_CHANNELS,
        num_layers=1,
        num_single_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and ("norm" in name or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def build_models(names):
    """Return (networks, CLIP tokenizer, T5 tokenizer) for a vocabulary's names."""
    captions = all_captions(names)
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(captions), build_t5_tokenizer(captions)
    encoders = build_clip_encoder(clip_tokenizer), build_t5_encoder(t5_tokenizer)
    return TextToLatents(build_transformer(), *encoders), clip_tokenizer, t5_tokenizer


def load_models(folder):
    """Return (networks, CLIP tokenizer, T5 tokenizer) of an exported pipeline folder, in float32."""
    pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    networks = TextToLatents(pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2)
    return networks.train(), pipeline.tokenizer, pipeline.tokenizer_2


class Batches:
    """Random training batches from a pool of latents (n, ...), captions already tokenized.

    ``caption`` (n,) numbers each latent's caption; ``tables`` hold what the networks take of
    the captions, one row each and the empty caption's last.
    """

    def __init__(self, latents, caption, tables, batch_size, generator):
        self.latents, self.caption, self.tables = latents, caption, tables
        self.batch_size, self.generator = batch_size, generator

    def draw(self):
        """Return (noisy latents, sigma, rows of the tables, target velocity)."""
        size, random = self.batch_size, {"generator": self.generator}
        index = torch.randint(len(self.latents), (size,), **random)
        data = self.latents[index].float()
        noise = torch.randn(data.shape, **random)
        sigma = torch.sigmoid(torch.randn(size, **random) + SIGMA_LOGIT_MEAN)
        uniform = torch.rand(size, **random)
        sigma = torch.where(torch.rand(size, **random) < UNIFORM_SHARE, uniform, sigma)
        caption = self.caption[index]
        caption[torch.rand(size, **random) < CAPTION_DROPOUT] = len(self.tables[0]) - 1
        noisy = torch.lerp(data, noise, sigma.view(-1, *[1] * (data.ndim - 1)))
        return noisy, sigma, *(table[caption] for table in self.tables), noise - data


def read_batches(pool, clip_tokenizer, t5_tokenizer, batch_size):
    """Return the batches of a pool that ``encode_latents.py`` wrote."""
    captions = [*all_captions(pool["names"]), ""]
    tables = token_table(clip_tokenizer, captions), token_table(t5_tokenizer, captions)
    caption = pool["icon"] * len(COLOUR_NAMES) + pool["colour"]
    return Batches(pool["latents"], caption, tables, batch_size, torch.Generator())


def build_optimizers(networks, rate):
    """Return Muon for the matrices inside the blocks and AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in networks.named_parameters():
        inside = parameter.ndim == 2 and name != "transformer.proj_out.weight"
        inside = inside and not any(part in name for part in NOT_MATRICES)
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]


@torch.no_grad()
def update_average(average, parameters, step):
    """Move the running average of the weights, faster in the first steps."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(average, parameters, 1.0 - decay)


def compile_repeated(networks):
    """Compile the transformer's repeated blocks in place, once for all of them.

    All of the network compiled as one gave gradients that are not finite on a CPU with matrix units (torch 2.13).
    """
    for block in getattr(networks.transformer, "single_transformer_blocks", None) or networks.transformer.blocks:
        block.compile()


def train(networks, batches, args, checkpoint, warmup_steps=WARMUP_STEPS):
    """Train until the time budget is spent, resuming from the checkpoint if it exists."""
    parameters = [p for p in networks.parameters() if p.requires_grad]
    optimizers = build_optimizers(networks, args.lr)
    step, spent = 0, 0.0
    average = [p.detach().clone() for p in parameters]
    if checkpoint.exists():
        state = torch.load(checkpoint)
        networks.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average, step, spent = state["average"], state["step"], state["spent"]
    batches.generator.manual_seed(SEED + step)
    if args.compile:
        compile_repeated(networks)
    budget, mark, losses = Budget(args.minutes, spent), time.monotonic(), []

    def save():
        state = {"model": networks.state_dict(), "average": average}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}
        save_atomically({**state, "step": step, "spent": budget.spent()}, checkpoint)

    while budget.fraction() < 1.0:
        refresh_threads(args.threads_file, step)
        rate = scheduled_rate(args.lr, step, warmup_steps, budget.fraction(), DECAY_SHARE)
        *inputs, target = batches.draw()
        with torch.autocast("cpu", torch.bfloat16):
            output = networks(*inputs)
        loss = nn.functional.mse_loss(output.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            set_rate(optimizer, rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_average(average, parameters, step)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}")
        step += 1
        if step % 100 == 0:
            speed = len(losses) * args.batch_size / (time.monotonic() - mark)
            print(
                f"step {step} {budget.spent():.0f} s lr {rate:.2e} "
                f"loss {sum(losses) / len(losses):.4f} {speed:.0f} images/s",
                flush=True,
            )
            mark, losses = time.monotonic(), []
        if step % SAVE_STEPS == 0:
            save()
    save()


def main():
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder holding latents.pt")
    parser.add_argument("--start", type=Path, help="exported pipeline folder to start from")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--compile", action="store_true", help="use torch.compile, 1.7x faster")
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    pool = torch.load(args.work / "latents.pt", mmap=True)
    models = load_models(args.start) if args.start else build_models(pool["names"])
    networks, clip_tokenizer, t5_tokenizer = models
    print(f"{sum(p.numel() for p in networks.parameters())} parameters")
    batches = read_batches(pool, clip_tokenizer, t5_tokenizer, args.batch_size)
    with sdpa_kernel(SDPBackend.MATH):
        train(networks, batches, args, args.work / "transformer.pt")


if __name__ == "__main__":
    main()
