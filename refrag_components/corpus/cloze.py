"""Questions made of running text: a sentence without one of its names, numbers or phrases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.corpus.batch import IGNORED
from refrag_components.prompts.parts import ControlPart, Message, PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ClozeForm", "ask_for_gaps"]

_WORD_MARKS = ("Ġ", "▁")  # begin the tokens of words: byte-level BPE's and SentencePiece's
_MISSING = " what"  # stands in the gap

_NAMED_SHARE = 0.7  # of the answers begin at a name or a number, the others at any word
_MOST_WORDS = 4  # an answer
_MOST_AROUND = 24  # tokens of the sentence on either side of the gap
_FEWEST_ASKED = 5  # tokens that a question has besides the gap
_DROPPED = (0.0, 0.2, 0.4)  # share of a question's words left out: people do not ask word by word


@dataclass(frozen=True, eq=False)
class ClozeForm:
    """What a decoder's tokens are, and the chat that questions are asked in.

    Attributes:
        begins: True for tokens that begin a word or sign, with a space before; (vocabulary,).
        alone: True for those of them that are a space and nothing else, as before digits; likewise.
        letters: True for tokens whose first character after the space is a letter or digit.
        capitals: True for those of them where it is a capital or a digit.
        ends: True for tokens after which a sentence may end.
        breaks: True for tokens with the end of a line, and for special ones.
        bare: Token ids of each token's text without the space before it.
        gap: Token ids of what stands in the gap.
        ask: What comes before the first question.
        reply: What stands between a question and its answer.
        again: What stands between an answer and the next question; its first token ends the answer.
    """

    begins: np.ndarray
    alone: np.ndarray
    letters: np.ndarray
    capitals: np.ndarray
    ends: np.ndarray
    breaks: np.ndarray
    bare: list[list[int]]
    gap: np.ndarray
    ask: np.ndarray
    reply: np.ndarray
    again: np.ndarray

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ClozeForm:
        """Reads a decoder's vocabulary and chat template."""
        tokens = list(map(str, tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))))
        spelled = [tokenizer.convert_tokens_to_string([token]) for token in tokens]
        texts = [text.strip(" ▁") for text in spelled]
        begins = np.array([token.startswith(_WORD_MARKS) for token in tokens])
        # A character in parts is a letter more often than not.
        letters = np.array([text[:1].isalnum() or text[:1] == "\ufffd" for text in texts])
        capitals = np.array([text[:1].isupper() or text[:1].isdigit() for text in texts])
        special = np.isin(np.arange(len(tokens)), tokenizer.all_special_ids)
        encode = PromptTokenizer(tokenizer).encode
        number = {token: [i] for i, token in enumerate(tokens)}
        number[""] = []
        bare = [
            number[token]  # SentencePiece has a space before every text
            if not token.startswith("Ġ")
            else number.get(token[1:]) or encode([TextPart(text)]).tolist()
            for token, text in zip(tokens, texts, strict=True)
        ]
        ask, reply, again = map(encode, _chat(tokenizer))
        return cls(
            begins=begins,
            alone=begins & np.array([not text for text in texts]),
            letters=letters,
            capitals=capitals,
            ends=np.array([text.endswith((".", "?", "!")) for text in texts]),
            breaks=np.array(["\n" in text for text in spelled]) | special,
            bare=bare,
            gap=encode([TextPart(_MISSING)]),
            ask=ask,
            reply=reply,
            again=again,
        )

    def without_space(self, text: np.ndarray) -> np.ndarray:
        """The same text without a space before it, as texts of a chat begin."""
        return np.concatenate([self.bare[text[0]], text[1:]]).astype(np.int64)


def ask_for_gaps(
    context: np.ndarray,
    passage_tokens: int,
    output_tokens: int,
    form: ClozeForm,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Asks for words of a context as the turns of a chat, as many as there is room for.

    Args:
        context: Token ids, (rows, s).
        passage_tokens: Tokens per passage; neither a question nor an answer reaches into the next.
        output_tokens: Tokens of a row's questions and answers together, padded with 0.
        form: Of the decoder.
        rng: Draws gaps and what is left out of the questions.

    Returns:
        Token ids and labels, both (rows, output_tokens): ``IGNORED`` except for the answers and
        the token that closes each.
    """
    tokens = np.zeros((len(context), output_tokens), dtype=np.int64)
    labels = np.full_like(tokens, IGNORED)
    # Of a further question and its answer, which has a token and another that closes it; the
    # question may lose a token that is only a space.
    shortest = len(form.again) + len(form.reply) + len(form.gap) + _FEWEST_ASKED
    for row, text in enumerate(context):
        filled, before = 0, form.ask
        for question, answer in _gaps(text, passage_tokens, form, rng):
            asked = np.concatenate([before, question, form.reply])
            end = filled + len(asked) + len(answer) + 1
            if end > output_tokens:
                continue
            tokens[row, filled:end] = [*asked, *answer, form.again[0]]
            labels[row, end - len(answer) - 1 : end] = tokens[row, end - len(answer) - 1 : end]
            filled, before = end, form.again[1:]
            if filled + shortest > output_tokens:
                break
    return tokens, labels


def _chat(tokenizer: PreTrainedTokenizerBase) -> list[list[TextPart | ControlPart]]:
    """What stands before a first question, before its answer and before the next question."""
    place = PassagePart("what is asked or answered")
    messages = [Message(role, (place,)) for role in ("user", "assistant", "user")]
    around: list[list[TextPart | ControlPart]] = [[]]
    for part in render(messages, tokenizer):
        if isinstance(part, PassagePart):
            around.append([])
        else:
            around[-1].append(part)
    return around[:3]


@dataclass(frozen=True, eq=False)
class _Words:
    """Where the words of a text stand, and their sentences.

    Attributes:
        starts: First token of each word, (words,); the others likewise.
        stops: The token after its last.
        first: First token of its sentence.
        last: The token after the last one of its sentence.
        named: True for names and numbers.
        openings: Words that a name or number certainly begins at, (openings,).
    """

    starts: np.ndarray
    stops: np.ndarray
    first: np.ndarray
    last: np.ndarray
    named: np.ndarray
    openings: np.ndarray


def _gaps(
    text: np.ndarray, passage_tokens: int, form: ClozeForm, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Questions with their answers, one per sentence, in random order.

    With two of a sentence each would show what the other asks for.
    """
    words = _find_words(text, passage_tokens, form)
    asked: set[int] = set()
    for i, by_name in _draw_words(words, rng):
        first, last = int(words.first[i]), int(words.last[i])
        if first in asked:
            continue
        begin, end = int(words.starts[i]), _answer_end(words, i, by_name, rng)
        left = _thinned(text[max(first, begin - _MOST_AROUND) : begin], form, rng)
        right = _thinned(text[end : min(last, end + _MOST_AROUND)], form, rng)
        if len(left) + len(right) >= _FEWEST_ASKED:
            asked.add(first)
            question = np.concatenate([left, form.gap, right])
            yield form.without_space(question), form.without_space(text[begin:end])


def _find_words(text: np.ndarray, passage_tokens: int, form: ClozeForm) -> _Words:
    """Finds words and sentences by their tokens alone: nothing is decoded while training waits."""
    ends_passage = np.arange(1, len(text) + 1) % passage_tokens == 0
    ends_passage[-1:] = True
    begins, alone = form.begins[text], form.alone[text]
    glued = form.letters[text] & ~begins
    before_glued = np.append(glued[1:], False) & ~ends_passage
    before_capital = np.append(form.capitals[text][1:], False) & before_glued
    # A sign in the middle of a word or number goes with it: 1,200; well-known.
    follows = glued | (~begins & before_glued)
    outside = np.append(~follows, True) | np.insert(ends_passage, 0, True)
    after = np.minimum.accumulate(np.where(outside, np.arange(len(outside)), len(text))[::-1])[::-1]
    starts = np.flatnonzero(begins & (form.letters[text] | (alone & before_glued)))
    stops = after[starts + 1]
    ends = form.breaks[text] | (form.ends[text] & np.append(begins[1:], True)) | ends_passage
    borders = np.insert(np.flatnonzero(ends) + 1, 0, 0)  # the last one is the end of the text
    sentence = np.searchsorted(borders, starts, side="right")
    first, last = borders[sentence - 1], borders[sentence]
    named = (form.capitals[text] | (alone & before_capital))[starts]
    # A name that begins a sentence may be any word, and one after a name is in the middle of it.
    joined = np.append(False, (starts[1:] == stops[:-1]) & named[:-1])
    openings = np.flatnonzero(named & (starts > first) & ~joined)
    return _Words(starts, stops, first, last, named, openings)


def _draw_words(words: _Words, rng: np.random.Generator) -> Iterator[tuple[int, bool]]:
    """Numbers of words to begin answers at, and whether as names: mostly, while there are any.

    Every word comes up, since not all of them can be asked for.
    """
    order = iter(rng.permutation(words.openings).tolist())
    others = iter(rng.permutation(len(words.starts)).tolist())
    while True:
        by_name = rng.random() < _NAMED_SHARE
        i = next(order if by_name else others, None)
        if i is None:
            if (i := next(others, None)) is None:
                return
            by_name = False
        yield i, by_name


def _answer_end(words: _Words, i: int, by_name: bool, rng: np.random.Generator) -> int:
    """The token after an answer: whole names, so that a question does not show the rest of one."""
    most = i + (_MOST_WORDS if by_name else int(rng.integers(1, _MOST_WORDS)))
    starts, stops, last = words.starts, words.stops, words.last[i]
    j = i
    while j + 1 < min(most, len(starts)) and starts[j + 1] == stops[j] < last:
        if by_name and not words.named[j + 1]:
            break
        j += 1
    return int(min(stops[j], last))


def _thinned(text: np.ndarray, form: ClozeForm, rng: np.random.Generator) -> np.ndarray:
    """Leaves some words out, and ends of lines."""
    text = text[~form.breaks[text]]
    word = np.cumsum(form.begins[text])
    kept: np.ndarray = rng.random(len(text) + 1) >= rng.choice(_DROPPED)
    return text[kept[word]]
