"""Stand-ins for the small files that upstream's fixtures fetch from the Hub.

They are built from configuration alone, so that the sweep needs no network. Whether the text is the true one does
not matter here: both runs that are compared are given the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]
# Tokens that models look for by number, and the numbers that upstream's tiny configurations give them.
QWEN = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1124,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "image_size": 30,
    "patch_size": 2,
    "projection_dim": 32,
}


def tokenizer(name: str) -> Any:
    """A byte-level tokenizer with the special tokens of the model that ``name`` says."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate([*SPECIAL, *letters])}
    clip, qwen = "clip" in name, "qwen" in name.lower()
    vocab |= QWEN if qwen else {piece: len(vocab) + index for index, piece in enumerate(QWEN)}
    core: Any = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = "<s> $A </s>" if clip or "bert" in name.lower() or "llama" in name.lower() else "$A </s>"
    if not qwen:
        core.post_processor = processors.TemplateProcessing(
            single=ends, special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>" if qwen else "<pad>",
        eos_token="<|im_end|>" if qwen else "</s>",
        bos_token=None if qwen else "<s>",
        unk_token="<unk>",
        mask_token="<mask>",
        additional_special_tokens=list(QWEN),
        model_max_length=77 if clip else 512,
        chat_template=CHAT,
    )


class TextProcessor:
    """A processor that reads text only: pictures need torchvision or files of the Hub.

    Attributes:
        tokenizer: reads the text.
    """

    def __init__(self, name: str) -> None:
        self.tokenizer = tokenizer(name)
        self.image_processor = None
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **options: Any) -> Any:
        """The tokens of ``text``."""
        if images is not None or videos is not None:
            raise RuntimeError("the fixture's processor reads pictures, with files that upstream keeps on the Hub")
        return self.tokenizer(text, **{key: value for key, value in options.items() if key != "images_kwargs"})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)


def install() -> None:
    """Let ``from_pretrained`` of transformers build stand-ins for the Hub's tiny repositories."""

    def put(owner: Any, make: Any) -> None:
        ordinary = owner.from_pretrained.__func__

        def from_pretrained(cls: Any, name: Any = None, *args: Any, **options: Any) -> Any:
            name = name if name is not None else options.pop("pretrained_model_name_or_path", None)
            return ordinary(cls, name, *args, **options) if Path(str(name)).exists() else make(cls, name)

        owner.from_pretrained = classmethod(from_pretrained)

    put(transformers.PreTrainedTokenizerBase, lambda cls, name: tokenizer(name))
    put(transformers.AutoTokenizer, lambda cls, name: tokenizer(name))
    put(transformers.AutoConfig, lambda cls, name: config(_kind(name)))
    put(transformers.FeatureExtractionMixin, lambda cls, name: cls())
    put(transformers.image_processing_base.ImageProcessingMixin, lambda cls, name: cls())
    put(transformers.AutoProcessor, lambda cls, name: TextProcessor(name))
    put(transformers.ProcessorMixin, lambda cls, name: TextProcessor(name))
    put(transformers.PreTrainedModel, lambda cls, name: cls(config(cls.config_class)))


def _kind(name: str) -> Any:
    kinds = {"t5": transformers.T5Config, "bert": transformers.BertConfig, "llama": transformers.LlamaConfig}
    return next((kind for part, kind in kinds.items() if part in name.lower()), transformers.T5Config)


def config(kind: Any) -> Any:
    """A tiny configuration of ``kind``."""
    known = vars(kind())
    return kind(**{name: value for name, value in TINY.items() if name in known})


def fit(pipe: Any) -> None:
    """Let text encoders read the stand-ins' numbers modulo their vocabulary's size."""
    for part in getattr(pipe, "components", {}).values():
        if isinstance(part, transformers.PreTrainedModel):
            for module in part.modules():
                if isinstance(module, nn.Embedding):
                    module.register_forward_pre_hook(_fold)


def _fold(module: nn.Embedding, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].remainder(module.num_embeddings), *inputs[1:])
