"""Hugging Face models, loaded without a word on the terminal."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from refrag_components.exceptions import RefragError

__all__ = [
    "cache_argument",
    "end_token_ids",
    "forward_arguments",
    "load_pretrained",
    "position_limit",
    "quietly",
]

logger = logging.getLogger(__name__)

_NO_LIMIT = 2**31  # a tokenizer that knows none says 10**30


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps loading bars, load reports and deprecations of transformers and PEFT to themselves.

    They speak to people who load a model by hand; users of this library can do nothing about them.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_pretrained(auto_class: Any, folder: Path) -> Any:
    """Loads a model in float32 and warns if weights are missing that it needs.

    From then on PyTorch does without cuDNN's attention in this process. It is planned anew for
    every shape, which takes longer than all the rest of a training step (experiments/003), and
    prompts hardly ever have one length twice. The other kernels need no plan.

    Args:
        auto_class: ``AutoModel`` or one of its kin.
        folder: In Hugging Face format.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    with quietly():
        model, found = auto_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if missing:  # nothing here uses a pooler
        logger.warning("weights missing in %s: %d, such as %s", folder, len(missing), min(missing))
    return model


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
