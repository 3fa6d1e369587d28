"""Tokenizers and text encoders from configuration alone: every word is letters, every encoder 32 wide."""

from __future__ import annotations

import string
from typing import Any

import transformers
from tokenizers import pre_tokenizers
from torch import nn

from tests.support.pipelines import WIDTH, randomise

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
HEADS: dict[str, Any] = {"num_attention_heads": 2, "intermediate_size": 32}
SEEN = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
# Contents that come as parts, pictures among them.
PARTED_CHAT = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}[IMG]{% endif %}{% endfor %}{% endfor %}"
)


def numbered(pieces: list[str]) -> dict[str, int]:
    """A vocabulary."""
    return {piece: index for index, piece in enumerate(pieces)}


def clip(width: int = WIDTH, *, projection: bool = False) -> tuple[Any, nn.Module]:
    """CLIP's tokenizer and text encoder."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer: Any = transformers.CLIPTokenizer(vocab=numbered(pieces), merges=[], model_max_length=77)
    config = transformers.CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        num_hidden_layers=2,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **HEADS,
    )
    encoder = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, randomise(encoder(config), 20)


def t5(*, multilingual: bool = False) -> tuple[Any, nn.Module]:
    """T5's tokenizer and encoder, or UMT5's."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits, *",.'-"]
    vocab = [(piece, 0.0 if index < 3 else -5.0) for index, piece in enumerate(pieces)]
    tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)
    kind, encoder = ("UMT5Config", "UMT5EncoderModel") if multilingual else ("T5Config", "T5EncoderModel")
    config = getattr(transformers, kind)(
        vocab_size=len(pieces), d_model=WIDTH, d_kv=16, d_ff=32, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    return tokenizer, randomise(getattr(transformers, encoder)(config), 21)


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer with a chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SEEN.values()]
    vocab = numbered([*LETTERS, *special])
    return transformers.Qwen2Tokenizer(vocab=vocab, merges=[], chat_template=CHAT, extra_special_tokens=special[1:])


def causal(layers: int, words: int, **options: Any) -> dict[str, Any]:
    """What the configurations of language models have in common."""
    sizes = {"vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": layers, "num_key_value_heads": 2}
    return {"max_position_embeddings": 1024, "head_dim": 16, **HEADS, **sizes, **options}


def qwen2_5_vl(layers: int = 1) -> tuple[Any, nn.Module]:
    """Qwen 2.5 VL."""
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config=causal(
            layers, len(tokenizer), rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}
        ),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "out_hidden_size": WIDTH,
            "num_heads": 2,
            "intermediate_size": 16,
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in SEEN.items()},
    )
    return tokenizer, randomise(transformers.Qwen2_5_VLForConditionalGeneration(config), 22)


def qwen2_5_seeing() -> tuple[Any, nn.Module]:
    """Qwen 2.5 VL with the processor that prepares pictures for it, four tokens each; needs torchvision."""
    tokenizer, encoder = qwen2_5_vl()
    pictures = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    return transformers.Qwen2VLProcessor(pictures, tokenizer, videos, chat_template=CHAT), encoder


def mistral3(layers: int) -> tuple[Any, nn.Module]:
    """Mistral 3 and Pixtral's processor; needs torchvision."""
    special = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = transformers.LlamaTokenizer(
        vocab=numbered(["<unk>", "<s>", "</s>", "<pad>", "▁", *string.printable, *special]),
        merges=[],
        pad_token="<pad>",
        extra_special_tokens=special,
    )
    pictures = transformers.PixtralImageProcessor(size={"longest_edge": 56}, patch_size=14)
    processor = transformers.PixtralProcessor(
        pictures, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=PARTED_CHAT
    )
    return processor, mistral3_model(transformers.Mistral3ForConditionalGeneration, layers, tokenizer)


def mistral3_model(kind: Any, layers: int, tokenizer: Any) -> nn.Module:
    """Mistral 3 and Pixtral's eye, as a model of some kind."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **causal(layers, len(tokenizer))},
        vision_config={"model_type": "pixtral", "image_size": 56, "patch_size": 14, "head_dim": 8, **sizes},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    return randomise(kind(config), 28)


def qwen2_5_words() -> tuple[Any, nn.Module]:
    """The text part of Qwen 2.5 VL."""
    tokenizer, both = qwen2_5_vl(3)
    return tokenizer, both.get_submodule("model.language_model")


def byt5() -> tuple[Any, nn.Module]:
    """T5 on bytes."""
    tokenizer = transformers.ByT5Tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=16, d_ff=32, num_layers=1, num_heads=2
    )
    return tokenizer, randomise(transformers.T5EncoderModel(config), 26)


def qwen3(layers: int = 2) -> tuple[Any, nn.Module]:
    """Qwen 3."""
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen3Config(**causal(layers, len(tokenizer)))
    return tokenizer, randomise(transformers.Qwen3ForCausalLM(config), 23)


def llama_tokenizer() -> Any:
    """Llama's tokenizer."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *string.printable]
    return transformers.LlamaTokenizer(vocab=numbered(pieces), merges=[], pad_token="</s>")


def llama() -> tuple[Any, nn.Module]:
    """Llama."""
    tokenizer = llama_tokenizer()
    return tokenizer, randomise(transformers.LlamaModel(transformers.LlamaConfig(**causal(4, len(tokenizer)))), 24)


def gemma_tokenizer() -> Any:
    """Gemma's tokenizer."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable]
    return transformers.GemmaTokenizer(vocab=numbered(pieces), merges=[])


def gemma2() -> tuple[Any, nn.Module]:
    """Gemma 2."""
    tokenizer = gemma_tokenizer()
    config = transformers.Gemma2Config(**causal(2, len(tokenizer)))
    return tokenizer, randomise(transformers.Gemma2Model(config), 25)


def gemma3(layers: int) -> tuple[Any, nn.Module]:
    """Gemma 3, its eyes included."""
    tokenizer = gemma_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=causal(layers, len(tokenizer)), vision_config={"image_size": 28, "patch_size": 14, **sizes}
    )
    return tokenizer, randomise(transformers.Gemma3ForConditionalGeneration(config), 27)
