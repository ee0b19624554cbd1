"""GGUF file -> folder in Hugging Face format."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from refrag_components.weights.loading import quietly

__all__ = ["convert_gguf"]

_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}


@quietly()
def convert_gguf(file: Path, folder: Path) -> None:
    """Dequantises a SmolLM2 GGUF file into bfloat16 safetensors with its tokenizer.

    transformers reads GGUF but refuses to save what it read ("quantized"), so the weights move
    into a model built from the cleaned config.

    Args:
        file: The GGUF file.
        folder: Where to write; created.
    """
    with redirect_stderr(io.StringIO()):  # a progress bar that transformers has no switch for
        quantised = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
        )
    config = quantised.config
    if hasattr(config, "quantization_config"):  # only later releases of transformers set it
        del config.quantization_config
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")  # GGUF keeps float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    _tokenizer(file, config.max_position_embeddings).save_pretrained(folder)


def _tokenizer(file: Path, max_length: int) -> PreTrainedTokenizerFast:
    """Builds the tokenizer from the file's own entries.

    What transformers makes of them differs between its releases (special tokens, decoder), and
    always lacks the pre-tokenizer that splits digits, which GGUF names only as ``smollm``.
    """
    reader = GGUFReader(file)

    def entry(name: str) -> Any:
        return reader.fields[f"tokenizer.{name}"].contents()

    tokens: list[str] = entry("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in entry("ggml.merges")]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    split_words = ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), split_words])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, entry("ggml.token_type"), strict=True)
            if kind == TokenType.CONTROL
        ]
    )
    special = {role: tokens[entry(f"ggml.{name}")] for role, name in _SPECIAL_TOKENS.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = entry("chat_template")
    return tokenizer
