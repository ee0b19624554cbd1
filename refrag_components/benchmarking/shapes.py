"""Models of known shapes with random weights: speed does not depend on what the weights say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragConfig
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.modeling.model import RefragModel

__all__ = ["SHAPES", "Shape", "random_model"]

_WINDOW = 131_072  # positions; random weights have no window of their own


@dataclass(frozen=True)
class Shape:
    """What decides how long a decoder of the Llama family takes.

    Attributes:
        hidden: Width of the states.
        inner: Width inside the MLP.
        layers: Number of layers.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        vocabulary: Size of the vocabulary.
        encoder_layers: Layers of the chunk encoder.
        rungs: Tokens per chunk embedding that it can serve, the first one the chunk size.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    encoder_layers: int
    rungs: tuple[int, ...] = field(default=(8, 16, 32))


#: Shapes by name, from the configurations that their makers publish.
SHAPES: dict[str, Shape] = {
    "llama-2-7b": Shape(4096, 11_008, 32, 32, 32, 32_000, 4),
    "llama-3.1-8b": Shape(4096, 14_336, 32, 32, 8, 128_256, 4),
    "smollm2-135m": Shape(576, 1536, 30, 9, 3, 49_152, 12),
}


def random_model(name: str, *, device: torch.device, dtype: torch.dtype) -> RefragModel:
    """Makes a model of a known shape.

    Its tokenizer has a word per token, so that a text of n words has n tokens.

    Args:
        name: One of ``SHAPES``.
        device: Where the weights are made.
        dtype: Of the weights.

    Raises:
        UnknownModelError: If there is no such shape.
    """
    if name not in SHAPES:
        msg = f"there is no shape {name!r}; choose one of {', '.join(SHAPES)}"
        raise UnknownModelError(msg)
    return _assemble(name, SHAPES[name], device, dtype)


def _assemble(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> RefragModel:
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=_WINDOW,
        tie_word_embeddings=False,
    )
    chunk_size = shape.rungs[0]
    with device:  # random numbers of 7B weights are made in seconds there, in minutes on a CPU
        decoder: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        encoder = LayerEncoder(
            decoder, layers=shape.encoder_layers, chunk_size=chunk_size, window=_WINDOW
        ).to(dtype)
    refrag = RefragConfig(
        decoder=name,
        encoder=name,
        encoder_layers=shape.encoder_layers,
        chunk_size=chunk_size,
        max_chunk_size=chunk_size,
        rungs=shape.rungs,
        token_mlp=0,
    )
    nothing_to_search_with: Any = None
    model = RefragModel(refrag, decoder, _words(shape.vocabulary), encoder, nothing_to_search_with)
    return model.to(device=device, dtype=dtype).eval()


def _words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words "w1", "w2", …"""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: i for i, word in enumerate(specials)}
    vocabulary |= {f"w{i}": i for i in range(len(specials), count)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=_WINDOW,
    )
