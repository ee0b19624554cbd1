"""Conversations made from questions on one article, as people ask them one after the other."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from refrag_components.corpus.question_files import Question, Turn

__all__ = ["LONGEST", "SHORTEST", "build_conversations", "in_conversation"]

#: Turns of a conversation.
SHORTEST, LONGEST = 3, 8

_SHARED = 3  # words with which two questions begin before the second leaves them out
_NEARBY = 300  # characters after a name in which the text takes it up again
_TAKEN_UP = re.compile(r"\b(he|she|it|they|his|her|its|their)\b", re.IGNORECASE)
_FORMS = {  # subject, object, possessive
    "he": ("he", "him", "his"),
    "she": ("she", "her", "her"),
    "it": ("it", "it", "its"),
    "they": ("they", "them", "their"),
}
_OF = {"his": "he", "her": "she", "its": "it", "their": "they"}
_BEFORE_OBJECT = {
    *("about", "against", "at", "between", "by", "for", "from", "in", "like", "of", "on", "over"),
    *("than", "through", "to", "toward", "under", "with"),
}
_SMALL = {"a", "an", "the", *_BEFORE_OBJECT}
_AUXILIARY = {
    *("are", "can", "could", "did", "do", "does", "had", "has", "have", "is", "may", "might"),
    *("must", "should", "was", "were", "will", "would"),
}
_FUNCTION = {
    *_BEFORE_OBJECT,
    *_AUXILIARY,
    *("after", "and", "as", "before", "because", "but", "if", "into", "or", "since", "that"),
    *("until", "when", "where", "which", "while", "who", "whom", "why"),
}
_NAME = re.compile(r"(?<=\s)[A-Z][\w.-]*(?:\s+(?:of\s+|the\s+|de\s+)?[A-Z][\w.-]*)*")


def build_conversations(
    questions: Sequence[Question], *, passages: int = 2
) -> list[tuple[Question, ...]]:
    """Makes conversations of three to eight turns, the same ones every time.

    The questions of a conversation have passages with one title, or share a passage. A turn shows
    the passages that answer it, unless an earlier turn has shown them, and others of the article.
    From the second turn on, names that the conversation has had become pronouns, and what a
    question has in common with the beginning of the one before is left out. Earlier turns have
    their right answers.

    Args:
        questions: Questions of one set; those without an answer or a passage are left out.
        passages: Passages that a turn shows if it needs a new one, at least 1.

    Returns:
        The turns of each conversation as questions with their history; each question is asked once.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        if question.answers and question.needed:
            title = question.titles[0] if question.titles else ""
            groups.setdefault(f"title {title}" if title else question.needed[0], []).append(
                question
            )
    made = []
    for group in groups.values():
        texts = list(dict.fromkeys(text for q in group for text in (*q.needed, *q.others)))
        place = {text: i for i, text in enumerate(texts)}
        ordered = sorted(group, key=lambda q: place[q.needed[0]])
        made += [_conversation(turns, texts, passages) for turns in _cut(ordered)]
    return made


def in_conversation(question: Question, before: Sequence[Question]) -> str:
    """The question as it is asked after others: with pronouns, and without what was just said.

    Args:
        question: The question as it stands alone.
        before: Those before it, likewise.
    """
    if not before:
        return question.text
    text = _shortened(question.text, before[-1].text)
    for name in _known_names(question, before):
        replaced = _with_pronoun(text, name, _pronoun(name, question.needed))
        if replaced != text:  # one name is taken up; a second would be ambiguous
            return replaced[0].upper() + replaced[1:]
    return text


def _cut(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Runs of three to eight questions; fewer at the end are left out."""
    start = 0
    while len(questions) - start >= SHORTEST:
        first = zlib.crc32(questions[start].id.encode(errors="surrogatepass"))
        length = SHORTEST + first % (LONGEST - SHORTEST + 1)
        yield questions[start : start + length]
        start += length


def _conversation(
    questions: Sequence[Question], texts: Sequence[str], passages: int
) -> tuple[Question, ...]:
    rng = np.random.default_rng(questions[0].seed)
    shown: set[str] = set()
    history: list[Turn] = []
    turns = []
    for number, question in enumerate(questions):
        needed = [text for text in question.needed if text not in shown]
        now: list[str] = []
        if needed:
            known = [*question.others, *texts]
            unseen = [
                text for text in dict.fromkeys(known) if text not in {*shown, *question.needed}
            ]
            fill = max(passages - len(needed), 0)
            picked = rng.permutation(len(unseen))[:fill]
            now = [*needed, *(unseen[i] for i in picked)]
            rng.shuffle(now)
        shown.update(now)
        text = in_conversation(question, questions[:number])
        others = tuple(text for text in now if text not in question.needed)
        turns.append(
            replace(question, text=text, others=others, history=tuple(history), standalone=False)
        )
        history.append(Turn(text, question.target, tuple(now)))
    return tuple(turns)


def _shortened(text: str, before: str) -> str:
    """Leaves out the words with which the question before began too."""
    words, earlier = text.split(), before.split()
    shared = 0
    while shared < min(len(words), len(earlier)) - 1 and (
        words[shared].lower() == earlier[shared].lower()
    ):
        shared += 1
    while shared and words[shared - 1].lower() in _SMALL:  # which belongs to what follows
        shared -= 1
    if shared < _SHARED:
        return text
    return f"And {' '.join(words[shared:])}"


def _known_names(question: Question, before: Sequence[Question]) -> list[str]:
    """Names that the conversation has had, the longest first."""
    said = " ".join(part for earlier in before for part in (earlier.text, earlier.target))
    titles = [re.sub(r"\s*\(.*?\)", "", t.replace("_", " ")).strip() for t in question.titles]
    names = [name for title in titles for name in (title, title.split(" ")[-1]) if len(name) > 2]
    names += [name for name in _NAME.findall(question.text) if _occurs(name, said)]
    return sorted(dict.fromkeys(names), key=len, reverse=True)


def _occurs(name: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _pronoun(name: str, passages: Sequence[str]) -> str:
    """The pronoun with which the text takes the name up again; "it" if it does not."""
    for passage in passages:
        start = passage.find(name)
        if start >= 0:
            after = passage[start + len(name) : start + len(name) + _NEARBY]
            if found := _TAKEN_UP.search(after):
                word = found[1].lower()
                return _OF.get(word, word)
    return "it"


def _with_pronoun(text: str, name: str, pronoun: str) -> str:
    subject, object_, possessive = _FORMS[pronoun]
    pattern = rf"(?:\bthe\s+)?\b{re.escape(name)}\b(['\u2019]s?(?!\w))?"
    found = re.search(pattern, text, re.IGNORECASE)
    if found is None:
        return text
    before, after = text[: found.start()], text[found.end() :]
    last = before.split()[-1].lower() if before.split() else ""
    following = re.match(r"\s+([\w'\u2019-]+)", after)
    # Elsewhere it may be a part of a longer name ("the Anglo-Saxon language").
    begins = not last or last in _FUNCTION or last.endswith("ed")
    stands_alone = following is None or following[1].lower() in _FUNCTION
    asked = last in _AUXILIARY and not found[0].lower().startswith("the ")
    if not (begins and (found[1] or stands_alone or asked)) or after.startswith("-"):
        return text
    ends = not re.search(r"\w", after)
    form = possessive if found[1] else object_ if last in _BEFORE_OBJECT or ends else subject
    return f"{before}{form}{after}"
