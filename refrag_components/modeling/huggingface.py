"""What Hugging Face models say of themselves, each in a way of its own."""

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

_NO_LIMIT = 2**31  # a tokenizer that knows none says 10**30


def position_limit(config: Any, tokenizer: Any) -> int:
    """The longest input of a model in positions, as its config or else its tokenizer says.

    Raises:
        RefragError: If neither says it.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None:  # positions without a table, as Bloom's, have no limit of their own
        limit = tokenizer.model_max_length
    if not 0 < limit < _NO_LIMIT:
        msg = (
            f"how long an input may be is said neither by {type(config).__name__} "
            "(max_position_embeddings) nor by the tokenizer; set model_max_length in the "
            "model's tokenizer_config.json"
        )
        raise RefragError(msg)
    return int(limit)


def forward_arguments(decoder: Any) -> set[str]:
    """Names of the arguments that a decoder's ``forward`` takes; not every one takes all."""
    # A PEFT wrapper's own signature says nothing about the decoder inside.
    inner = decoder.get_base_model() if hasattr(decoder, "get_base_model") else decoder
    return set(inspect.signature(inner.forward).parameters)


def cache_argument(decoder: Any) -> str:
    """Name of the argument in which a decoder takes its cache of keys and values.

    Transformers 5.24 renamed it from "past_key_values" to "cache".

    Raises:
        RefragError: If the decoder takes none; it would then forget the prompt at each token.
    """
    names = forward_arguments(decoder) & {"cache", "past_key_values"}
    if not names:
        msg = f"{type(decoder).__name__} takes no cache of keys and values; choose another decoder"
        raise RefragError(msg)
    return min(names)


def end_token_ids(decoder: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the generation config's and the tokenizer's own.

    BOS ends it too: a decoder that opens a new turn or document has finished this one.
    """
    configured = decoder.generation_config.eos_token_id
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    own = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    return frozenset(i for i in (*ids, *own) if i is not None)
