"""What excerpts are compared with: other ways to read fewer tokens of the same passages."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from refrag_components.evaluation.answers.contexts import Context
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.modeling import RefragModel
from refrag_components.policies import Policy, PolicyInputs
from refrag_components.policies.named.perplexity import chunk_losses
from refrag_components.prompts.parts import PassagePart
from refrag_components.text.splitting import sentence_spans, token_counter
from refrag_components.text.tokenization import content_tokenizer

__all__ = ["Read", "Remembered", "Rivals", "remembered", "surprising"]

Read = Callable[[Context], list[str]]
_AT_ONCE = 1 << 14  # tokens that the decoder reads in one pass


class Remembered(Policy):
    """Scores that were computed before, so that every budget is measured with the same ones."""

    name: ClassVar[str] = "remembered"
    reads_question: ClassVar[bool] = False

    def __init__(self) -> None:
        self._scores: dict[tuple[str, int], np.ndarray] = {}

    def add(self, inputs: PolicyInputs, scores: np.ndarray) -> None:
        """Remembers the scores of a request."""
        self._scores[_request(inputs)] = scores

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Those of this question and these passages."""
        return self._scores[_request(inputs)]


def _request(inputs: PolicyInputs) -> tuple[str, int]:
    code = 0
    for passage in inputs.passages:
        code = zlib.crc32(passage.token_ids.tobytes(), code)
    return inputs.question.text, code


def _inputs(
    contexts: Sequence[Context], model: RefragModel, loader: PassageLoader
) -> list[PolicyInputs]:
    texts = [[PassagePart(text.strip()) for text in each.passages] for each in contexts]
    loaded = iter(loader.load([part for own in texts for part in own]))
    questions = model.encode_questions([each.question.text for each in contexts])
    return [
        PolicyInputs([next(loaded).vectors for _ in own], question)
        for own, question in zip(texts, questions, strict=True)
    ]


def remembered(
    policy: Policy, contexts: Sequence[Context], model: RefragModel, loader: PassageLoader
) -> Remembered:
    """The scores of a policy for contexts, computed once."""
    made = Remembered()
    for inputs in _inputs(contexts, model, loader):
        made.add(inputs, policy.scores(inputs))
    return made


def surprising(
    contexts: Sequence[Context], model: RefragModel, loader: PassageLoader
) -> Remembered:
    """The scores of ``PerplexityPolicy``, computed for many passages at once."""
    every = _inputs(contexts, model, loader)
    passages = {p.token_ids.tobytes(): p for each in every for p in each.passages}
    losses = chunk_losses(
        model,
        [p.token_ids for p in passages.values()],
        [p.chunk_size for p in passages.values()],
        at_once=_AT_ONCE,
    )
    known = dict(zip(passages, losses, strict=True))
    made = Remembered()
    for inputs in every:
        each = [known[p.token_ids.tobytes()] for p in inputs.passages]
        made.add(inputs, np.concatenate(each))
    return made


class Rivals:
    """What a sceptic would do instead, each at most a share of the tokens of all passages.

    Args:
        model: Its decoder's tokens are counted, its retriever compares sentences.
        ranks: Scores of the policy, for the rival that takes whole passages by them.
        loader: Chunk vectors of the passages.
        contexts: Questions with passages whose sentences are embedded now, all together; none for
            measurements of time, which count that in.
    """

    def __init__(
        self, model: RefragModel, ranks: Policy, loader: PassageLoader, contexts: Sequence[Context]
    ) -> None:
        self._model, self._ranks, self._loader = model, ranks, loader
        self._count = token_counter(model.tokenizer)
        self._tokenizer = content_tokenizer(model.tokenizer)
        texts = {text for context in contexts for text in context.passages}
        sentences = [text[a:b] for text in sorted(texts) for a, b in sentence_spans(text)]
        asked = sorted({context.question.text for context in contexts})
        every = list(dict.fromkeys([*sentences, *asked]))
        self._vectors = dict(zip(every, model.search_vectors(every), strict=True)) if every else {}

    def room(self, context: Context, times: int) -> int:
        """Tokens that may be read."""
        return sum(self._count(list(context.passages))) // times

    def similar_passages(self, times: int) -> Read:
        """The passages most similar to the question; the first that does not fit is cut."""
        return lambda context: self._first(context, context.similar, times)

    def ranked_passages(self, times: int) -> Read:
        """The passages that the policy ranks first; the first that does not fit is cut."""

        def read(context: Context) -> list[str]:
            (inputs,) = _inputs([context], self._model, self._loader)
            ends = np.cumsum([p.n_chunks for p in inputs.passages])[:-1]
            best = [own.max(initial=-np.inf) for own in np.split(self._ranks.scores(inputs), ends)]
            return self._first(context, np.argsort(-np.array(best), kind="stable"), times)

        return read

    def similar_sentences(self, times: int) -> Read:
        """The sentences most similar to the question, by the retriever's vectors."""

        def read(context: Context) -> list[str]:
            places = _sentences(context)
            texts = [context.passages[i][a:b] for i, a, b in places]
            new = [t for t in [context.question.text, *texts] if t not in self._vectors]
            found = self._vectors | dict(zip(new, self._model.search_vectors(new), strict=True))
            close = np.array([found[text] for text in texts]) @ found[context.question.text]
            return self._fill(context, [places[i] for i in np.argsort(-close)], times)

        return read

    def first_sentences(self, times: int) -> Read:
        """The first sentences of all passages, then the second ones, and so on."""

        def read(context: Context) -> list[str]:
            places = _sentences(context)
            before = [
                sum(other[0] == own[0] for other in places[:n]) for n, own in enumerate(places)
            ]
            return self._fill(
                context, [places[i] for i in np.argsort(before, kind="stable")], times
            )

        return read

    def any_sentences(self, times: int) -> Read:
        """Sentences drawn at random."""

        def read(context: Context) -> list[str]:
            places = _sentences(context)
            order = np.random.default_rng(context.question.seed).permutation(len(places))
            return self._fill(context, [places[i] for i in order], times)

        return read

    def _first(self, context: Context, order: Sequence[int] | np.ndarray, times: int) -> list[str]:
        room, kept = self.room(context, times), {}
        for i in order:
            encoding = self._tokenizer.encode(context.passages[i], add_special_tokens=False)
            if room <= 0:
                break
            fits = len(encoding.ids) <= room
            end = len(context.passages[i]) if fits else encoding.offsets[room - 1][1]
            kept[int(i)] = context.passages[i][:end]
            room -= len(encoding.ids)
        return [kept[i] for i in sorted(kept)]

    def _fill(
        self, context: Context, order: Sequence[tuple[int, int, int]], times: int
    ) -> list[str]:
        """The texts of the sentences that fit, the first ones first."""
        room, kept = self.room(context, times), []
        counts = self._count([context.passages[i][a:b] for i, a, b in order])
        for place, tokens in zip(order, counts, strict=True):
            if tokens <= room:
                kept.append(place)
                room -= tokens
        return [
            " ".join(text[a:b] for n, a, b in sorted(kept) if n == i)
            for i, text in enumerate(context.passages)
            if any(n == i for n, _, _ in kept)
        ]


def _sentences(context: Context) -> list[tuple[int, int, int]]:
    """Passage, start and end of every sentence."""
    return [(i, a, b) for i, text in enumerate(context.passages) for a, b in sentence_spans(text)]
