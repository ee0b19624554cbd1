"""Facts about Hugging Face models, which each model reports in its own way."""

from __future__ import annotations

import inspect
from typing import Any

from refrag_components.exceptions import RefragError

__all__ = [
    "cache_argument",
    "end_token_ids",
    "forward_arguments",
    "position_limit",
]

_NO_LIMIT = 2**31  # a tokenizer without a limit reports 10**30


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


def forward_arguments(decoder: Any) -> set[str]:
    """Names of the arguments of a decoder's ``forward``, which differ between decoders."""
    # A PEFT wrapper's own signature says nothing about the decoder inside.
    inner = decoder.get_base_model() if hasattr(decoder, "get_base_model") else decoder
    return set(inspect.signature(inner.forward).parameters)


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


def end_token_ids(decoder: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config and of the tokenizer.

    BOS ends it too: a decoder that begins a new turn or document has finished this one.
    """
    configured = decoder.generation_config.eos_token_id
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    from_tokenizer = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    return frozenset(i for i in (*ids, *from_tokenizer) if i is not None)
