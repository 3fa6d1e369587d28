"""Train the transformer and the text encoder, jointly, by flow matching.

Reads every ``latents*.pt`` (encode_latents.py), writes ``transformer.pt``: weights, their
moving average and the optimizer's state, to resume from and to export.
"""

import argparse
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

from text_models import FEED_FORWARD_WIDTH, TEXT_HEADS, TEXT_LAYERS, TEXT_TOKENS, TEXT_WIDTH, build_t5_tokenizer
from train_transformer import SEED, Batches, train
from video.data import COLOUR_NAMES, MOTIONS, all_captions
from video.train_vae import CHANNELS

TRAIN_TIMESTEPS = 1000
LAYERS = 7


class CaptionToLatents(nn.Module):
    """The two trained networks, called as WanPipeline calls them."""

    def __init__(self, tokenizer):
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder(tokenizer)

    def forward(self, latents, sigma, ids, mask):
        """Return the predicted velocity, noise minus data, of noisy latents (n, 24, 5, 4, 4)."""
        words = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        return self.transformer(
            hidden_states=latents,
            timestep=sigma * TRAIN_TIMESTEPS,
            encoder_hidden_states=words,
            return_dict=False,
        )[0]


def build_transformer():
    """Return the untrained transformer; its modulations and its output start at zero."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=1024,
        num_layers=LAYERS,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    for module in (transformer.condition_embedder.time_proj, transformer.proj_out):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    for block in transformer.blocks:
        nn.init.zeros_(block.scale_shift_table)
    return transformer


def build_text_encoder(tokenizer):
    """Return an untrained UMT5 encoder."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=TEXT_WIDTH // TEXT_HEADS,
        d_ff=FEED_FORWARD_WIDTH,
        num_layers=TEXT_LAYERS,
        num_heads=TEXT_HEADS,
        relative_attention_max_distance=TEXT_TOKENS,
        relative_attention_num_buckets=TEXT_TOKENS,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        is_encoder_decoder=False,
    )
    return UMT5EncoderModel(config)


def build_models(names):
    """Return (networks, tokenizer) for the names of the things."""
    tokenizer = build_t5_tokenizer(all_captions(names))
    return CaptionToLatents(tokenizer), tokenizer


def token_tables(tokenizer, captions):
    """Tokenize as WanPipeline does; returns (ids, mask), one row a caption."""
    options = {"padding": "max_length", "max_length": TEXT_TOKENS, "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer(captions, **options)
    return tokens.input_ids.to(torch.int64), tokens.attention_mask.to(torch.int64)


def read_batches(pools, tokenizer, batch_size):
    """Return the batches of the pools that ``encode_latents.py`` wrote."""
    latents, labels = (torch.cat([pool[word] for pool in pools]) for word in ("latents", "labels"))
    thing, motion, colour = labels.unbind(1)
    caption = (thing * len(MOTIONS) + motion) * len(COLOUR_NAMES) + colour
    tables = token_tables(tokenizer, [*all_captions(pools[0]["names"]), ""])
    return Batches(latents, caption, tables, batch_size, torch.Generator())


def main():
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder holding latents.pt")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--threads-file", help="file holding torch's thread count")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    pools = [torch.load(path) for path in sorted(args.work.glob("latents*.pt"))]
    networks, tokenizer = build_models(pools[0]["names"])
    print(f"{sum(p.numel() for p in networks.parameters())} parameters")
    batches = read_batches(pools, tokenizer, args.batch_size)
    print(f"{len(batches.latents)} videos", flush=True)
    with sdpa_kernel(SDPBackend.MATH):  # for 20 tokens faster than the flash kernel
        train(networks, batches, args, args.work / "transformer.pt")


if __name__ == "__main__":
    main()
