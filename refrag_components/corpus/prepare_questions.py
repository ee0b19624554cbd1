"""Questions with passages to arrays that training only has to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.corpus.distractors import similar_passages
from refrag_components.corpus.question_files import Question, load_questions, set_name
from refrag_components.corpus.questions import META, PASSAGES, SetMeta
from refrag_components.corpus.tokenised import (
    TokenisedCorpus,
    new_folder,
    smallest_type,
    write_corpus,
)
from refrag_components.prompts.parts import ControlPart, Message, PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from refrag_components.modeling.search_encoder import SearchEncoder

__all__ = ["prepare_questions"]

# Prompts in the shapes that RAG frameworks use: system text, user text; {} marks the passages.
# With the passages in the system text earlier turns are plain; else each turn has its own.
_PROMPTS = (
    ("", "Answer the question based only on the following context:\n{}\n\nQuestion: {q}"),
    ("Use the following context to answer the user's question. Be brief.\n\n{}", "{q}"),
    (
        "",
        "Context information is below.\n---------------------\n{}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\n"
        "Query: {q}\nAnswer: ",
    ),
    ("You are a helpful assistant.", "{}\n\n{q}"),
    ("", "Question: {q}\n\nContext:\n{}\n\nAnswer:"),
)
_BETWEEN_PASSAGES = TextPart("\n\n")
_HERE = PassagePart("passages")  # stands for a turn's passages while the text is laid out

_HISTORY_SHARE = 0.25  # conversations that have earlier turns where the documents allow it
_MOST_EARLIER = 2  # turns
_MOST_ANSWER_TOKENS = 256  # a longer answer is cut, and nothing closes it


def prepare_questions(
    files: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    retriever: SearchEncoder,
    folder: str | Path,
    *,
    device: str = "cpu",
    most: int | None = None,
    retrieved: int = 10,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Tokenises questions and finds distractors for them.

    Each question becomes one conversation, in one of the prompt shapes of RAG frameworks. A quarter
    of those that share a passage with others of their file come after one or two of these. The
    distractors that a search would return come from the passages of all files together.

    Args:
        files: Question files as ``load_questions`` reads them.
        tokenizer: The decoder's fast tokenizer.
        retriever: Finds distractors.
        folder: Where to write; must not exist.
        device: Where the retriever works; best on a GPU.
        most: Questions to take of each file, spread evenly; None takes all.
        retrieved: Most similar passages to keep with each question.
        seed: Of the prompt shapes and the earlier turns.
        progress: Called with the number of texts done after each batch.

    Returns:
        Number of conversations written.

    Raises:
        EvaluationError: If a file holds no such questions.
        TrainingError: If the folder exists.
    """
    with new_folder(folder) as scratch:
        sets = [load_questions(file, items=most) for file in files]
        every = [question for of_set in sets for question in of_set]
        texts = dict.fromkeys(text for q in every for text in (*q.needed, *q.others))
        number = {text: i for i, text in enumerate(texts)}
        questions = [question.text for question in every]
        similar = similar_passages(
            retriever,
            list(texts),
            questions,
            retrieved,
            device=torch.device(device),
            progress=progress,
        )
        arrays = _Arrays(tokenizer, number)
        rng = np.random.default_rng([seed, 6])
        found = iter(similar)
        for source, of_set in enumerate(sets):
            similar_of = dict(zip((question.id for question in of_set), found, strict=False))
            for turns in _conversations(of_set, rng):
                arrays.add(turns, [similar_of[turn.id] for turn in turns], source, rng)
            if progress is not None:
                progress(len(of_set))
        (scratch / PASSAGES).mkdir()
        lengths = write_corpus(texts, tokenizer, scratch / PASSAGES, progress=progress)
        corpus = TokenisedCorpus.load(scratch / PASSAGES)
        rarity = _rarity(corpus.tokens, lengths, len(tokenizer))
        meta = SetMeta(sets=[set_name(file) for file in files], questions=questions)
        (scratch / META).write_text(meta.model_dump_json() + "\n", encoding="utf-8")
        for name, values in {**arrays.arrays(), "lengths": lengths, "rarity": rarity}.items():
            np.save(scratch / f"{name}.npy", values)
    return len(every)


def _rarity(tokens: np.ndarray, lengths: np.ndarray, vocabulary: int) -> np.ndarray:
    """log(passages / passages that have a token), at least 0; (vocabulary,), float32."""
    passages = np.repeat(np.arange(len(lengths)), lengths + (lengths > 0))
    pairs = np.unique(passages * vocabulary + np.asarray(tokens, dtype=np.int64))
    having = np.bincount(pairs % vocabulary, minlength=vocabulary)
    rarity: np.ndarray = np.log(len(lengths) / (1 + having)).clip(min=0).astype(np.float32)
    return rarity


def _conversations(
    questions: Sequence[Question], rng: np.random.Generator
) -> Iterable[list[Question]]:
    """Each question once as the last turn, some with others about the same passage before it."""
    about: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        for text in (*question.needed, *question.others):
            about[text].append(question)
    for question in questions:
        earlier: list[Question] = []
        if rng.random() < _HISTORY_SHARE:
            related = [other for text in question.needed for other in about[text]]
            count = int(rng.integers(1, _MOST_EARLIER + 1))
            picked = [related[i] for i in rng.permutation(len(related))[: count + 1]]
            earlier = [q for q in dict.fromkeys(picked) if q is not question][:count]
        yield [*earlier, question]


@dataclass
class _Arrays:
    """What becomes the arrays of a ``QuestionSet``."""

    tokenizer: Any  # Hugging Face's
    number: dict[str, int]
    texts: list[np.ndarray] = field(default_factory=list)
    asked: list[np.ndarray] = field(default_factory=list)
    conversations: list[tuple[int, int]] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompts = PromptTokenizer(self.tokenizer)

    def add(
        self,
        turns: Sequence[Question],
        similar: Sequence[np.ndarray],
        source: int,
        rng: np.random.Generator,
    ) -> None:
        """Adds a conversation whose last turn is to be answered."""
        prompt = _PROMPTS[int(rng.integers(len(_PROMPTS)))]
        texts = self._texts(_messages(prompt, turns))
        # With the passages in the system text the last turn alone has any.
        shown = list(zip(turns, similar, strict=True))[1 - len(texts) :]
        for turn, found in shown:
            needed = [self.number[text] for text in turn.needed]
            others = [self.number[text] for text in turn.others]
            others = [i for i in dict.fromkeys([*others, *found.tolist()]) if i not in needed]
            self.turns.append((len(needed), len(others)))
            self.candidates += [*needed, *others]
        self.asked.append(self._prompts.encode([TextPart(f" {turns[-1].text}")]))
        answer = self._prompts.encode([TextPart(turns[-1].target)])
        closing = [self.tokenizer.eos_token_id]
        cut = len(answer) > _MOST_ANSWER_TOKENS
        self.texts += [*texts, answer[:_MOST_ANSWER_TOKENS] if cut else np.append(answer, closing)]
        self.conversations.append((len(shown), source))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, except those of the passages."""
        kind = smallest_type(len(self.tokenizer))
        return {
            "text": np.concatenate(self.texts).astype(kind),
            "text_lengths": np.array([len(text) for text in self.texts], dtype=np.int32),
            "asked": np.concatenate(self.asked).astype(kind),
            "asked_lengths": np.array([len(text) for text in self.asked], dtype=np.int32),
            "conversations": np.array(self.conversations, dtype=np.int32),
            "turns": np.array(self.turns, dtype=np.int32),
            "candidates": np.array(self.candidates, dtype=np.int32),
            "separator": self._prompts.encode([_BETWEEN_PASSAGES]).astype(kind),
        }

    def _texts(self, messages: Sequence[Message]) -> list[np.ndarray]:
        """Token ids of what stands before, between and after the passages."""
        pending: list[TextPart | ControlPart] = []
        texts = []
        for part in render(messages, self.tokenizer):
            if isinstance(part, PassagePart):
                texts.append(self._prompts.encode(pending))
                pending = []
            else:
                pending.append(part)
        texts.append(self._prompts.encode(pending))
        if not self.tokenizer.chat_template:
            texts[0] = np.concatenate([self._prompts.opening, texts[0]])
        return texts


def _messages(prompt: tuple[str, str], turns: Sequence[Question]) -> list[Message]:
    system, user = prompt
    messages = [Message("system", _parts(system, turns[-1]))] if system else []
    for turn in turns:
        messages.append(Message("user", _parts(user, turn)))
        if turn is not turns[-1]:
            messages.append(Message("assistant", (TextPart(turn.target),)))
    return messages


def _parts(template: str, question: Question) -> tuple[Any, ...]:
    before, marker, after = (
        piece.replace("{q}", question.text) for piece in template.partition("{}")
    )
    if not marker:
        return (TextPart(before),)
    return (TextPart(before), _HERE, TextPart(after))
