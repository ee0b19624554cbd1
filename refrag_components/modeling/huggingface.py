"""Facts about Hugging Face models, which each model reports in its own way."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from transformers import DynamicCache

from refrag_components.exceptions import RefragError

__all__ = [
    "cache_argument",
    "embedding_scale",
    "end_token_ids",
    "forward_arguments",
    "holds_only_states",
    "position_limit",
]

_NO_LIMIT = 2**31  # a tokenizer without a limit reports 10**30
_SAMPLE = 1024  # rows of a table of embeddings


def position_limit(config: Any, tokenizer: Any) -> int:
    """The longest input of a model in positions, from its config or else from its tokenizer.

    Raises:
        RefragError: If neither states it.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None:  # position encodings without a table, such as Bloom's, set no limit
        limit = tokenizer.model_max_length
    if not 0 < limit < _NO_LIMIT:
        msg = (
            f"neither {type(config).__name__} (max_position_embeddings) nor the tokenizer states "
            "the longest input; set model_max_length in the model's tokenizer_config.json"
        )
        raise RefragError(msg)
    return int(limit)


def forward_arguments(decoder: Any) -> frozenset[str]:
    """Names of the arguments of a decoder's ``forward``, which differ between decoders."""
    # A PEFT wrapper's own signature says nothing about the decoder inside.
    inner: Any = decoder.get_base_model() if hasattr(decoder, "get_base_model") else decoder
    if "forward" in vars(inner):  # somebody replaced it on this object
        return frozenset(inspect.signature(inner.forward).parameters)
    kind: Any = type(inner)
    return _class_arguments(kind)


@lru_cache
def _class_arguments(kind: Any) -> frozenset[str]:
    """Asked at each step of an answer, and a tenth of a millisecond without the cache."""
    return frozenset(inspect.signature(kind.forward).parameters)


def cache_argument(decoder: Any) -> str:
    """Name of the argument by which a decoder takes its cache of keys and values.

    Transformers 5.24 renamed it from "past_key_values" to "cache".

    Raises:
        RefragError: If the decoder takes none; it would forget the prompt at each token.
    """
    names = forward_arguments(decoder) & {"cache", "past_key_values"}
    if not names:
        msg = f"{type(decoder).__name__} takes no cache of keys and values; choose another decoder"
        raise RefragError(msg)
    return min(names)


def holds_only_states(cache: DynamicCache) -> bool:
    """Whether a cache that has been filled holds recurrent states alone, no keys and values.

    Padding left no trace in the states, and some decoders (Mamba) take no mask after the prompt.
    """
    return not any(hasattr(layer, "keys") for layer in cache.layers)


@torch.no_grad()
def embedding_scale(decoder: Any) -> float:
    """Standard deviation of the token embeddings as the decoder's layers receive them.

    Some embedding modules return more than their weights: Gemma's, XGLM's and BioGPT's multiply
    them by the root of the width.
    """
    embedding = decoder.get_input_embeddings()
    table = embedding.weight
    rows = torch.arange(min(len(table), _SAMPLE), device=table.device)
    stored = float(table[rows].float().norm())
    factor = float(embedding(rows).float().norm()) / stored if stored else 1.0
    return factor * float(table.float().std())


def end_token_ids(decoder: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config and of the tokenizer.

    BOS ends it too: a decoder that begins a new turn or document has finished this one.
    """
    configured = decoder.generation_config.eos_token_id
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    from_tokenizer = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    return frozenset(i for i in (*ids, *from_tokenizer) if i is not None)
