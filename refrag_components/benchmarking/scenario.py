"""What is measured: cases, and the prompts that they are measured on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refrag_components.benchmarking.words import QUESTION, WORDS
from refrag_components.prompts.parts import PassagePart, RenderedPart, TextPart

__all__ = ["CONTEXTS", "FRACTIONS", "RATES", "Case", "Method", "cases", "make_passages", "prompt"]

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
RATES = (8, 16, 32)
FRACTIONS = (0.0, 0.05, 0.1, 0.25)

#: What the decoder reads of the context: all of it as text, or chunk embeddings with expanded
#: chunks between them, or the expanded chunks alone.
Method = Literal["text", "compress", "drop"]

_SEED = 0


@dataclass(frozen=True)
class Case:
    """One row of a measurement.

    Attributes:
        context: Tokens of all passages.
        method: What the decoder reads of them.
        k: Tokens per chunk embedding; 0 for "text".
        expanded: Fraction of the chunks that expand.
        cached: Whether the chunk vectors are in the store.
    """

    context: int
    method: Method
    k: int = 0
    expanded: float = 0.0
    cached: bool = True

    @property
    def label(self) -> str:
        """The case in words."""
        if self.method == "text":
            return f"{self.context} tokens as text"
        rest = "dropped" if self.method == "drop" else "compressed"
        origin = "" if self.cached else ", not cached"
        return f"{self.context} tokens, k={self.k}, p={self.expanded:g}, rest {rest}{origin}"


def cases(
    contexts: Sequence[int] = CONTEXTS,
    rates: Sequence[int] = RATES,
    fractions: Sequence[float] = FRACTIONS,
    *,
    cached: Sequence[bool] = (True, False),
    rests: Sequence[Method] = ("compress", "drop"),
) -> list[Case]:
    """All combinations, in the order in which they are measured.

    The full text comes first, each rate by itself, and long contexts last, because they take
    longest and may not fit. Without expanded chunks nothing is left to drop the rest of.
    """
    text = [Case(context, "text") for context in sorted(contexts)]
    combined = itertools.product(sorted(rates), sorted(contexts), cached, sorted(fractions), rests)
    return text + [
        Case(context, rest, k, fraction, known)
        for k, context, known, fraction, rest in combined
        if rest == "compress" or fraction
    ]


def make_passages(tokenizer: Any, context: int, passage_tokens: int) -> list[str]:
    """Makes passages of common words in random order, always the same.

    Args:
        tokenizer: The decoder's fast tokenizer.
        context: Tokens of all passages.
        passage_tokens: Tokens of each; the last one may be shorter.

    Returns:
        The passages; with tokenizers that join tokens over the ends of words, a passage may have a
        token more or less.
    """
    draw = random.Random(_SEED)
    passages = []
    for start in range(0, context, passage_tokens):
        count = min(passage_tokens, context - start)
        words = draw.choices(WORDS, k=count)  # a word has at least one token
        text = "".join(f" {word}" for word in words)
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        passages.append(text[: offsets["offset_mapping"][count - 1][1]])
    return passages


def prompt(passages: Sequence[str], method: Method) -> list[RenderedPart]:
    """A prompt: an instruction, the passages (as ordinary text for "text"), the question.

    Nothing stands between two passages, as in the paper, so that the text alone counts.
    """
    make = TextPart if method == "text" else PassagePart
    parts: list[RenderedPart] = [TextPart("there are two of the known people in this book\n")]
    parts += [make(passage) for passage in passages]
    return [*parts, TextPart(f"\n{QUESTION}\n")]
