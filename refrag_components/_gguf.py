"""GGUF file -> folder in Hugging Face format."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

__all__ = ["convert_gguf"]


def convert_gguf(file: Path, folder: Path) -> None:
    """Dequantises a SmolLM2 GGUF file into bfloat16 safetensors with its tokenizer.

    transformers reads GGUF but refuses to save what it read ("quantized"), so the weights move
    into a model built from the cleaned config. Its tokenizer conversion needs two repairs: it
    drops the pre-tokenizer that splits digits (GGUF names it only as ``smollm``) and has no
    length limit.

    Args:
        file: The GGUF file.
        folder: Where to write; created.
    """
    quantised = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    config = quantised.config
    del config.quantization_config
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")  # GGUF keeps float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)

    read = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    backend = read.backend_tokenizer
    split_words = ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), split_words])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **read.special_tokens_map,
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = read.chat_template
    tokenizer.save_pretrained(folder)
