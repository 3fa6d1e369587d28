"""Tokenizers and text encoders, small enough for the captions of ``icons``."""

import json
import string

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from icons import COLOUR_NAMES, caption

TEXT_TOKENS = 16
TEXT_WIDTH = 128
TEXT_LAYERS = 2
TEXT_HEADS = 4
FEED_FORWARD_WIDTH = 256
WORD_SCORE, LETTER_SCORE = -5.0, -12.0


def all_captions(names):
    """Return the captions of every name on every colour, colours running fastest."""
    return [caption(name, colour) for name in names for colour in COLOUR_NAMES]


def build_clip_tokenizer(captions):
    """Train a byte-pair tokenizer in which each word of the captions is one token."""
    empty = CLIPTokenizer()
    trainable = Tokenizer(type(empty.backend_tokenizer.model)(end_of_word_suffix="</w>"))
    trainable.normalizer = empty.backend_tokenizer.normalizer
    trainable.pre_tokenizer = empty.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trainable.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in _merges(trainable)]
    pieces = alphabet + [letter + "</w>" for letter in alphabet]
    pieces += ["".join(pair) for pair in merges]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_TOKENS)


def _merges(tokenizer):
    """Return a byte-pair tokenizer's merges, in order, as pairs."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def build_t5_tokenizer(captions):
    """Return a unigram tokenizer with one piece per word and single letters besides."""
    words = sorted({word for text in captions for word in text.split()})
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [("▁", LETTER_SCORE)]
    letters += [(c, LETTER_SCORE) for c in string.ascii_letters + string.digits + ",.'-"]
    pieces = specials + [(f"▁{word}", WORD_SCORE) for word in words] + letters
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def build_clip_encoder(tokenizer):
    """Return an untrained CLIP text encoder whose pooled output is the end token's."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=FEED_FORWARD_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=TEXT_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_t5_encoder(tokenizer):
    """Return an untrained T5 encoder."""
    config = T5Config(
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
    return T5EncoderModel(config)


def token_table(tokenizer, captions):
    """Tokenize as FluxPipeline does: padded and cut to ``TEXT_TOKENS``, one row a caption."""
    ids = tokenizer(
        captions,
        padding="max_length",
        max_length=TEXT_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids.to(torch.int64)
