"""What is told of an answer's limits: what the model is for, and that nothing was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_components.cli.common import output, say
from refrag_components.weights.lookup import bundled_names

if TYPE_CHECKING:
    from refrag_components.index import Hit

__all__ = ["tell_nothing_found", "tell_purpose"]

_PURPOSE = (
    "is a small model (135M parameters) for short factual questions in English; check its answers "
    "in the sources"
)


def tell_purpose(model: str) -> None:
    """Says what a bundled model is for; of others their makers know.

    Args:
        model: Its name, as it was loaded.
    """
    if model in bundled_names():
        say(f"{model} {_PURPOSE}")


def tell_nothing_found(folder: Path, hits: Sequence[Hit]) -> None:
    """Says that no passage of an index fits the question, and what to do.

    Args:
        folder: The index.
        hits: What was found all the same, best first.
    """
    output.out(f"Nothing in {folder} fits this question.", highlight=False)
    say(
        f"The closest passage, of {hits[0].source}, has a score of {hits[0].score:.2f}. Ask in the "
        "words of the documents, or add --anyway for an answer from what was found."
    )
