"""Whether a decoder can read chunk embeddings, found out when it is loaded."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.decoder_call import DecoderCall
from refrag_components.modeling.huggingface import (
    cache_argument,
    forward_arguments,
    holds_only_states,
)
from refrag_components.weights.loading import quietly

__all__ = ["check_decoder"]

_TOKENS = 4

# Differences of logits, in standard deviations of all of them. Batches and padding round
# differently, by 1e-5 in float32; some recurrent decoders compute single tokens in another way, by
# up to 0.05. Whoever does something else altogether differs by 1 and more.
_ROUNDING = 0.01
_FORGETFUL = 0.3


@torch.no_grad()
def check_decoder(decoder: Any, tokenizer: Any, folder: Path) -> None:
    """Lets a decoder read and continue a few positions in the way that answers are decoded.

    What a decoder's class can do shows in nothing that it declares: some take ``inputs_embeds``
    and look tokens up in further tables all the same, or cannot tell padding from text.

    Args:
        decoder: Hugging Face causal language model, in float32.
        tokenizer: Its tokenizer.
        folder: Where both came from.

    Raises:
        UnknownModelError: If chunk embeddings cannot enter, or an answer would not be that to the
            same tokens alone.
    """
    cause: Exception | None = None
    if "inputs_embeds" not in forward_arguments(decoder):
        why = "takes no inputs_embeds, through which chunk embeddings enter"
    else:
        cache_argument(decoder)
        ids = torch.tensor([_ordinary_ids(decoder, tokenizer)], device=decoder.device)
        try:
            with quietly():
                why = _difference(decoder, ids)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            why, cause = f"fails at positions that are chunk embeddings ({reason})", error
    if why:
        msg = (
            f"{type(decoder).__name__} {why}; choose another decoder, such as one of the families "
            f"in docs/decoders.md, or copy {folder} again if a file in it was altered"
        )
        raise UnknownModelError(msg) from cause


def _difference(decoder: Any, ids: Tensor) -> str:
    """What a decoder does otherwise than it must; completes a sentence, "" for nothing."""
    call = DecoderCall(decoder)
    plain = call(input_ids=ids)[0]
    spread = plain.std()
    tokens = decoder.get_input_embeddings()(ids)[0]
    # Padding before all tokens but the last; a position that is not a token among others.
    rows = torch.stack([tokens[[0, *range(_TOKENS - 1)]], tokens.clone()])
    rows[1, 2] = -rows[1, 1]
    mask = torch.ones(rows.shape[:2], dtype=torch.int64, device=ids.device)
    mask[0, 0] = 0
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache: Any = DynamicCache(config=decoder.config)
    read = call(mask, cache, inputs_embeds=rows, position_ids=places)[0, 1:]
    if not (read - plain[:-1]).abs().max() <= _ROUNDING * spread:
        begin = {"inputs_embeds": tokens[None, :-1], "position_ids": places[1:, :-1]}
        alone = call(**begin)[0]
        if (alone - plain[:-1]).abs().max() <= _ROUNDING * spread:
            return "reads the padding of shorter prompts in a batch"
        return "looks ahead, or reads token ids besides their embeddings"
    cache.reorder_cache(torch.tensor([0], device=ids.device))
    longer = None if holds_only_states(cache) else torch.cat([mask[:1], mask[1:, :1]], dim=1)
    last = {"input_ids": ids[:, -1:], "position_ids": places[:1, -1:] + 1}
    step = call(longer, cache, **last)[0]
    if not (step - plain[-1:]).abs().max() <= _FORGETFUL * spread:
        return "forgets what it has read when an answer goes on"
    return ""


def _ordinary_ids(decoder: Any, tokenizer: Any) -> list[int]:
    """Token ids that stand for text."""
    special = set(tokenizer.all_special_ids)
    rows = decoder.get_input_embeddings().weight.shape[0]
    return list(islice((i for i in range(rows) if i not in special), _TOKENS))
