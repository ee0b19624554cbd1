"""How a decoder is called: with the arguments that it takes, under their names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from refrag_components.modeling.huggingface import cache_argument, forward_arguments

__all__ = ["DecoderCall"]


class DecoderCall:
    """A decoder's forward pass, to logits.

    Args:
        decoder: Any Hugging Face decoder.

    Attributes:
        decoder: The decoder.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self._accepted = forward_arguments(decoder)
        self._cache_argument = cache_argument(decoder)

    @property
    def can_choose_logits(self) -> bool:
        """Whether it computes logits at chosen positions alone."""
        return "logits_to_keep" in self._accepted

    def __call__(self, mask: Tensor | None = None, cache: Any = None, **inputs: Any) -> Tensor:
        """Runs the decoder.

        Args:
            mask: 1 for positions in use, 0 for padding, those in the cache included, shape (rows,
                positions); or scores to add, shape (rows, 1, n, positions); None if all are in use.
            cache: What the decoder has read before, as transformers keeps it; it is continued.
            inputs: Further arguments; those that the decoder does not take are left out, as
                transformers' generate does.

        Returns:
            Logits, shape (rows, n, vocabulary).
        """
        arguments: dict[str, Any] = {
            **inputs,
            "attention_mask": mask,
            self._cache_argument: cache,
            "use_cache": cache is not None,
        }
        accepted = {name: arguments[name] for name in arguments.keys() & self._accepted}
        logits: Tensor = self.decoder(**accepted).logits
        return logits
