"""Builders of tiny random decoders and encoders with real (small) tokenizers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\nTools:' }}{% for tool in tools %}"
    "{{ '\n' + (tool | tojson) }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% for call in message.tool_calls or [] %}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' '
    "+ (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML that lays out tools and writes calls between tags, as Hermes and Qwen do."""

BARE_TOOL_TEMPLATE = (
    TOOL_TEMPLATE.replace("<tool_call>\n", "")
    .replace("\n</tool_call>", "")
    .replace('"arguments"', '"parameters"')
)
"""The same with bare JSON, as Llama 3 has it."""

TEXT = [
    "The harbour lies north of the old town and was dug in 1907.",
    "A generator yields values one by one; a list holds all of them at once.",
    "Rain fell on the mountain for three days, then the river rose by two metres.",
    "In the beginning the compiler reads the source and builds a tree of names.",
    "Prices rose 12.5% in 2019, fell 3% in 2020 and have been flat since then.",
]


def tiny_decoder_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of a few hundred tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=chat_template,
        model_max_length=1024,
    )


def tiny_encoder_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer as BERT's: special tokens, characters and some whole words."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    text = " ".join(TEXT).lower()
    pieces = [piece for c in sorted({*text} - {" "}) for piece in (c, f"##{c}")]
    words = sorted({*re.findall(r"[a-z]{3,}", text)})[::2]
    # Not trained: the trainer of WordPiece gives another vocabulary each time.
    vocabulary = {piece: i for i, piece in enumerate([*specials, *pieces, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


def tiny_decoder_config(kind: type[PretrainedConfig] = LlamaConfig, **others: Any) -> Any:
    """A two-layer decoder for the tiny tokenizer, except for what ``others`` say."""
    tokenizer = tiny_decoder_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
    }
    return kind(**settings | others)


def tiny_encoder_config(kind: type[PretrainedConfig] = BertConfig, **others: Any) -> Any:
    """A two-layer encoder for the tiny tokenizer, except for what ``others`` say."""
    settings: dict[str, Any] = {
        "vocab_size": len(tiny_encoder_tokenizer()),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    return kind(**settings | others)


def tiny_config(decoder: str | Path, encoder: str | Path, **others: Any) -> RefragConfig:
    """A checkpoint of k = 4 with a Hugging Face encoder, except for what ``others`` say."""
    settings: dict[str, Any] = {"chunk_size": 4}
    return RefragConfig(decoder=str(decoder), encoder=str(encoder), **settings | others)


def random_model(
    folder: Path, decoder: PretrainedConfig, encoder: Path | None = None, **others: Any
) -> RefragModel:
    """A model around a random decoder, whose projector makes something of each vector.

    Args:
        folder: Where the decoder is saved, and the encoder if none is given.
        decoder: Its configuration.
        encoder: A saved encoder.
        **others: As for ``tiny_config``.
    """
    saved = save_tiny_decoder(folder / "decoder", decoder)
    config = tiny_config(saved, encoder or save_tiny_encoder(folder / "encoder"), **others)
    model = RefragModel.from_base(config).eval()
    projector: Any = model.projector
    torch.nn.init.normal_(projector.out.weight, std=0.2)  # zero before training
    return model


def layered_config(decoder: str | Path, encoder: str | Path, **others: Any) -> RefragConfig:
    """A checkpoint of k = 4 whose encoder is the decoder's first layer; rungs 4, 8 and 16."""
    settings: dict[str, Any] = {
        "encoder_layers": 1,
        "max_chunk_size": 4,
        "rungs": (4, 8, 16),
        "token_mlp": 0,
    }
    return tiny_config(decoder, encoder, **settings | others)


def save_tiny_decoder(folder: Path, config: PretrainedConfig | None = None) -> Path:
    """Saves a random decoder (a two-layer Llama unless a config is given) with its tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config or tiny_decoder_config()).save_pretrained(folder)
    tiny_decoder_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_encoder(folder: Path) -> Path:
    """Saves a random two-layer BERT with its tokenizer; its window is 64 tokens."""
    torch.manual_seed(1)
    BertModel(tiny_encoder_config(), add_pooling_layer=False).save_pretrained(folder)
    tiny_encoder_tokenizer().save_pretrained(folder)
    return folder
