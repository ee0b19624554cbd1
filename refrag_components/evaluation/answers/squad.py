"""Right or wrong: exact match and F1 by the SQuAD rules, yes/no, and refusals to answer."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["exact_match", "is_refusal", "normalise", "occurs_in", "score", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# How a refusal begins, after ``normalise``: "the" and "a" are gone, "doesn't" is "doesnt".
_SOURCE = r"((given|provided|above) )?(context|text|passages?|documents?|information)"
_NOT = r"(does not|doesnt|do not|dont|did not|didnt|cannot|can not|cant)"
_SAY = r"(say|tell|state|mention|specify|provide|contain|give|include|answer|know)"
_GIVEN = r"(answerable|known|given|stated|said|mentioned|specified|provided|available|clear)"
_REFUSAL = re.compile(
    r"((im )?sorry |unfortunately )?(but )?("
    r"(none|na|unknown)$|unanswerable|(there is )?no (answer|information|mention)|"
    rf"i {_NOT} (know|say|tell|answer|find|determine)|{_SOURCE} {_NOT} {_SAY}|"
    r"((it|this|that|answer|question) )?("
    r"(is|was|are) (unanswerable|unknown)|(cannot|can not|cant) be (answered|determined|known)|"
    rf"((is|was|are) )?not ({_GIVEN}|((found|contained|included) )?in {_SOURCE}))"
    r")\b"
)


def normalise(text: str) -> str:
    """Lower-cases text, removes ASCII punctuation and a, an, the, and joins by single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if both are equal after ``normalise``, else 0.0."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over words, in [0, 1].

    Words count as often as they occur. If either text has no words after ``normalise``, it is 1.0
    if neither has any, else 0.0.
    """
    ours, right = normalise(prediction).split(), normalise(answer).split()
    if not ours or not right:
        return float(ours == right)
    shared = sum((Counter(ours) & Counter(right)).values())
    return 2 * shared / (len(ours) + len(right))


def is_refusal(prediction: str) -> bool:
    """Whether a prediction begins by saying that there is no answer.

    "The context does not say.", which bundled checkpoints are trained to say, counts, and so do
    "unanswerable", "unknown", "I don't know", "not in the context", "it is not stated" and the
    like; a refusal later in the text does not. Case, articles and punctuation do not matter.
    """
    return _REFUSAL.match(normalise(prediction)) is not None


def occurs_in(answers: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether any answer occurs, word for word after ``normalise``, in any of the texts."""
    wanted = [f" {normal} " for answer in answers if (normal := normalise(answer))]
    if not wanted:
        return False
    read = [f" {normalise(text)} " for text in texts]
    return any(answer in text for answer in wanted for text in read)


def score(prediction: str, answers: Sequence[str], *, by_word: bool = False) -> tuple[float, float]:
    """Exact match and F1 of a prediction: the best over all right answers.

    A yes/no question or a label is judged by the first word. Without a right answer both are NaN:
    such a question is judged by ``is_refusal``, and the means of the others leave it out.

    Args:
        prediction: What the model wrote.
        answers: Right answers; none if the question's passages do not answer it.
        by_word: The answers are single words, such as "yes", "no" or "maybe".
    """
    if not answers:
        return math.nan, math.nan
    if by_word:
        first = normalise(prediction).split(" ")[0]
        right = float(first in {normalise(answer) for answer in answers})
        return right, right
    return (
        max(exact_match(prediction, answer) for answer in answers),
        max(token_f1(prediction, answer) for answer in answers),
    )
