"""Tokenizers and text encoders of the newest pipelines, from configuration alone."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

from tests.support.folders_text import (
    LETTERS,
    PARTED_CHAT,
    SEEN,
    causal,
    gemma_tokenizer,
    llama_tokenizer,
    mistral3_model,
    numbered,
    qwen_tokenizer,
)
from tests.support.pipelines import WIDTH, randomise

SEEING = {"depth": 1, "hidden_size": 16, "out_hidden_size": WIDTH, "num_heads": 2, "intermediate_size": 16}


def qwen3_vl(layers: int, *, writing: bool = False) -> tuple[Any, nn.Module]:
    """Qwen 3 VL, with a head that writes if asked for."""
    tokenizer = qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    config = transformers.Qwen3VLConfig(
        text_config=causal(layers, len(tokenizer), rope_parameters=rope),
        vision_config={**SEEING, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in SEEN.items()},
    )
    kind = transformers.Qwen3VLForConditionalGeneration if writing else transformers.Qwen3VLModel
    return tokenizer, randomise(kind(config), 30)


def qwen3_reading() -> tuple[Any, nn.Module]:
    """Qwen 3 without a head."""
    tokenizer = qwen_tokenizer()
    return tokenizer, randomise(transformers.Qwen3Model(transformers.Qwen3Config(**causal(2, len(tokenizer)))), 31)


def mistral3_words() -> tuple[Any, nn.Module]:
    """Mistral 3 without a head, and its tokenizer."""
    tokenizer = llama_tokenizer()
    return tokenizer, mistral3_model(transformers.Mistral3Model, 2, tokenizer)


def llama_writing(layers: int) -> tuple[Any, nn.Module]:
    """Llama with its head."""
    tokenizer = llama_tokenizer()
    config = transformers.LlamaConfig(**causal(layers, len(tokenizer)))
    return tokenizer, randomise(transformers.LlamaForCausalLM(config), 32)


def gemma_sizes(words: int) -> dict[str, Any]:
    """What configurations of Gemma's encoders have in common."""
    return causal(2, words, layer_types=["full_attention"] * 2, query_pre_attn_scalar=16)


def t5_gemma(kind: str) -> tuple[Any, nn.Module]:
    """Gemma as an encoder, as one of its classes has it; its folder holds the configuration of the whole."""
    from transformers.models.t5gemma import modeling_t5gemma

    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = 64
    sizes = gemma_sizes(len(tokenizer))
    config = transformers.T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False, **sizes)
    encoder = getattr(modeling_t5gemma, kind)(config.encoder if kind == "T5GemmaEncoder" else config)
    encoder.config = config
    return tokenizer, randomise(encoder, 33)


def clip_seeing() -> nn.Module:
    """CLIP's eye, for pictures of 28 pixels."""
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(hidden_size=WIDTH, image_size=28, patch_size=14, **sizes)
    return randomise(transformers.CLIPVisionModel(config), 34)


def clip_pictures() -> Any:
    """What prepares pictures for CLIP's eye."""
    return transformers.CLIPImageProcessor(size=28, crop_size=28)


def roberta_tokenizer() -> Any:
    """Roberta's tokenizer."""
    from tokenizers import pre_tokenizers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = numbered([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    return transformers.RobertaTokenizer(vocab=vocab, merges=[], model_max_length=77)


def clap() -> tuple[Any, nn.Module]:
    """CLAP, which reads text and hears."""
    tokenizer = roberta_tokenizer()
    reading = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 80,
        "projection_dim": 16,
    }
    hearing = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "hidden_size": 16,
        "patch_size": 2,
        "patch_stride": 2,
        "patch_embeds_hidden_size": 8,
        "projection_dim": 16,
    }
    config = transformers.ClapConfig(text_config=reading, audio_config=hearing, projection_dim=16)
    return tokenizer, randomise(transformers.ClapModel(config), 35)


def glm_writing() -> tuple[Any, nn.Module]:
    """GLM-Image's processor, and the model that writes a plan of the picture in tokens."""
    named = {name: f"<|{name}|>" for name in ("image_token", "grid_bos_token", "grid_eos_token", "bos_token")}
    vocab = numbered([*LETTERS, "<|endoftext|>", *named.values()])
    tokenizer: Any = transformers.Qwen2Tokenizer(
        vocab=vocab, merges=[], bos_token=named.pop("bos_token"), extra_special_tokens=named
    )
    pictures = transformers.GlmImageImageProcessor(patch_size=8, min_pixels=56 * 56, max_pixels=56 * 56)
    processor = transformers.GlmImageProcessor(pictures, tokenizer, chat_template=PARTED_CHAT)
    config = transformers.GlmImageConfig(
        text_config=causal(
            1,
            len(tokenizer),
            vision_vocab_size=16,
            pad_token_id=0,
            eos_token_id=16,  # never written: a plan has its full length
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        ),
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 8, "intermediate_size": 16},
        vq_config={"embed_dim": 16, "num_embeddings": 16, "latent_channels": 16},
        image_token_id=processor.image_token_id,
        image_start_token_id=14,
        image_end_token_id=15,
    )
    return processor, randomise(transformers.GlmImageForConditionalGeneration(config), 36)


def qwen3_seeing(layers: int = 2) -> tuple[Any, nn.Module]:
    """Qwen 3 VL with the processor that prepares pictures for it; needs torchvision."""
    tokenizer, encoder = qwen3_vl(layers, writing=True)
    pictures = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    videos = transformers.Qwen3VLVideoProcessor()
    return transformers.Qwen3VLProcessor(pictures, tokenizer, videos, chat_template=PARTED_CHAT), encoder
