"""Models with random weights: speed does not depend on what the weights say."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from refrag_components.benchmarking.shapes import Shape
from refrag_components.benchmarking.words import WORDS
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.modeling.model import RefragModel
from refrag_components.weights.loading import plan_no_attention

__all__ = ["random_decoder", "random_model"]

_WINDOW = 131_072  # positions; random weights have no window of their own
_NAME = "random weights"
_SPACE = "\u0120"  # as byte-level vocabularies write it


def random_decoder(shape: Shape, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Makes a decoder on its device: billions of random numbers take seconds there.

    PyTorch attends as it does once a checkpoint is loaded, see ``plan_no_attention``. No token ends
    its answers, so that all have the length that is asked for.

    Args:
        shape: Its shape.
        device: Where its weights are made.
        dtype: Of its weights.
    """
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=_WINDOW,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    plan_no_attention()
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_model(decoder: Any, shape: Shape, *, chunk_size: int) -> RefragModel:
    """Puts a chunk encoder and a projector with random weights next to a decoder.

    Its tokenizer has a token per word of ``WORDS``, so that a text of n words has n tokens.

    Args:
        decoder: From ``random_decoder``; models of several chunk sizes can share it.
        shape: Its shape.
        chunk_size: Tokens per chunk vector and per chunk embedding.
    """
    device, dtype = decoder.device, decoder.dtype
    config = RefragConfig(
        decoder=_NAME,
        encoder=_NAME,
        encoder_layers=shape.encoder_layers,
        chunk_size=chunk_size,
        max_chunk_size=chunk_size,
        token_mlp=0,
    )
    nothing_to_search_with: Any = None
    with device:
        encoder = LayerEncoder(
            decoder, layers=shape.encoder_layers, chunk_size=chunk_size, window=_WINDOW
        ).to(dtype)
        model = RefragModel(
            config,
            decoder,
            _tokenizer(shape.vocabulary),
            encoder,
            nothing_to_search_with,
            digest=b"random",  # hashing gigabytes would take longer than many a measurement
        )
    # Zeros would be multiplied faster than trained weights.
    _fill(encoder.place, encoder.mix, *model.projector.parameters())
    return model.to(device=device, dtype=dtype).eval()


@torch.no_grad()
def _fill(*parameters: Tensor) -> None:
    for parameter in parameters:
        parameter.normal_(std=parameter.shape[-1] ** -0.5)


def _tokenizer(count: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, as most decoders have, with a token for each of ``WORDS``.

    Its vocabulary is filled up with "w0", "w1", ...
    """
    words = dict.fromkeys(WORDS)
    known = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known += [*words, *(f"{_SPACE}{word}" for word in words)]
    known = list(dict.fromkeys(known))
    vocabulary = {word: i for i, word in enumerate(known)}
    vocabulary |= {f"w{i}": i for i in range(len(known), count)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=_WINDOW)
