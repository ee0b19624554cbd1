"""Right or wrong: exact match and F1 by the SQuAD rules, yes/no and "there is no answer"."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from refrag_components.corpus.conversations import UNANSWERABLE

__all__ = ["exact_match", "normalise", "score", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_YES_NO = ("yes", "no")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without a, an and the, single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if both are the same after ``normalise``, else 0.0."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over words, in [0, 1].

    Words count as often as they occur. Where either text has no words left after ``normalise``,
    1.0 if neither has, else 0.0.
    """
    ours, right = normalise(prediction).split(), normalise(answer).split()
    if not ours or not right:
        return float(ours == right)
    shared = sum((Counter(ours) & Counter(right)).values())
    return 2 * shared / (len(ours) + len(right))


def score(prediction: str, answers: Sequence[str], *, yes_no: bool = False) -> tuple[float, float]:
    """Exact match and F1 of a prediction: the best over all right answers.

    A question without an answer is answered right by the sentence that the model is trained to
    say then, and by no other. A yes/no question is answered by the first word.

    Args:
        prediction: What the model wrote.
        answers: Right answers; none for a question that its passages do not answer.
        yes_no: The answers are "yes" or "no".
    """
    if not answers:
        refused = float(normalise(prediction).startswith(normalise(UNANSWERABLE)))
        return refused, refused
    if yes_no:
        first = normalise(prediction).split(" ")[0]
        right = float(first in _YES_NO and first in {normalise(answer) for answer in answers})
        return right, right
    return (
        max(exact_match(prediction, answer) for answer in answers),
        max(token_f1(prediction, answer) for answer in answers),
    )
