"""How often a search finds all passages that an answer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.clusters import best_of_clusters
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.statistics import cluster_labels, interval, resample
from refrag_components.exceptions import EvaluationError
from refrag_components.index.diversity import most_diverse
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["SIMILARITY", "measure_coverage"]

SIMILARITY = "similarity"

_CANDIDATES = 100  # most similar passages, of which diverse ones are picked


def measure_coverage(
    model: RefragModel,
    sets: Mapping[str, Sequence[Question]],
    *,
    passages: Sequence[int],
    diversities: Sequence[float],
    clusters: Sequence[int],
    pool: Sequence[str] = (),
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Measures for how many questions all needed passages are among those found.

    Args:
        model: Its retriever searches; its chunks and rungs give the positions.
        sets: Questions of each set; those that make no sense without their passage, or need none,
            are left out.
        passages: Numbers of passages to find.
        diversities: As for ``most_diverse``.
        clusters: As for ``best_of_clusters``.
        pool: Passages to search, in addition to those of all sets' questions.
        cache: Folder that keeps their search vectors between runs; None for none.
        progress: Called with the number of passages embedded.

    Returns:
        One object per set, and one for its questions that need several passages. Each has "rows",
        one for each "order" (``SIMILARITY`` first) and number of passages: the share of questions
        for which "all" needed passages were found, and for which "any" was; "tokens" of the
        passages; for each rung k the positions of all of them compressed and the same share if as
        many positions hold the first of them as text; paired differences of "all" from that and
        from similarity alone. Intervals are over clusters of questions that need the same passage.

    Raises:
        EvaluationError: If a set has no question left.
    """
    texts = dict.fromkeys(pool)
    texts |= dict.fromkeys(
        t for questions in sets.values() for q in questions for t in (*q.needed, *q.others)
    )
    searched = PassagePool(model, list(texts), cache=cache, progress=progress)
    tokenizer = content_tokenizer(model.tokenizer)
    encoded = tokenizer.encode_batch(searched.texts, add_special_tokens=False)
    lengths = np.array([len(encoding.ids) for encoding in encoded])
    number = {text: i for i, text in enumerate(searched.texts)}
    orders = _orders(diversities, clusters)
    tables = []
    for name, questions in _searchable(sets):
        vectors = searched.embed_questions([q.text for q in questions])
        found = [
            np.array([number[text] for text in texts])
            for texts in searched.search(vectors, max(_CANDIDATES, *passages))
        ]
        needed = [np.array([number[text] for text in q.needed]) for q in questions]
        rows = {}
        for order, pick in orders.items():
            ranked = [
                numbers[pick(vector, searched.vectors[numbers], max(passages))]
                for vector, numbers in zip(vectors, found, strict=True)
            ]
            for count in passages:
                shown = [numbers[:count] for numbers in ranked]
                rows[order, count] = _columns(ranked, shown, needed, lengths, model.config.rungs)
        labels = cluster_labels([q.needed for q in questions])
        tables.append({"set": name, "questions": len(questions), "rows": _rows(rows, labels)})
    return tables


def _orders(
    diversities: Sequence[float], clusters: Sequence[int]
) -> dict[str, Callable[[np.ndarray, np.ndarray, int], list[int]]]:
    """What picks passages among candidates, by its name in tables."""
    every: dict[str, Callable[[np.ndarray, np.ndarray, int], list[int]]] = {
        SIMILARITY: partial(most_diverse, diversity=0.0)
    }
    for diversity in diversities:
        every[f"MMR {diversity:g}"] = partial(most_diverse, diversity=diversity)
    for number in clusters:
        every[f"{number} clusters"] = partial(best_of_clusters, clusters=number)
    return every


def _searchable(sets: Mapping[str, Sequence[Question]]) -> Iterator[tuple[str, list[Question]]]:
    """The questions of each set, then those that need several passages if not all do."""
    for name, questions in sets.items():
        searchable = [q for q in questions if q.standalone and q.needed]
        if not searchable:
            raise EvaluationError(f"no question of {name} can be searched for by itself")
        yield name, searchable
        several = [q for q in searchable if len(q.needed) > 1]
        if 0 < len(several) < len(searchable):
            yield f"{name}, two passages or more", several


def _columns(
    ranked: Sequence[np.ndarray],
    shown: Sequence[np.ndarray],
    needed: Sequence[np.ndarray],
    lengths: np.ndarray,
    rungs: Sequence[int],
) -> dict[str, np.ndarray]:
    """A value per question for each column, shape (questions,)."""
    columns = {
        "all": _share_with_all(shown, needed),
        "any": np.array([np.isin(n, s).any() for n, s in zip(needed, shown, strict=True)], float),
        "tokens": np.array([lengths[numbers].sum() for numbers in shown], float),
    }
    for k in rungs:
        taken = [int(np.ceil(lengths[numbers] / k).sum()) for numbers in shown]
        as_text = [
            numbers[: np.searchsorted(lengths[numbers].cumsum(), room, side="right")]
            for numbers, room in zip(ranked, taken, strict=True)
        ]
        columns[f"positions_{k}"] = np.array(taken, float)
        columns[f"all_as_text_{k}"] = _share_with_all(as_text, needed)
        columns[f"passages_as_text_{k}"] = np.array([len(numbers) for numbers in as_text], float)
    return columns


def _share_with_all(shown: Sequence[np.ndarray], needed: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([np.isin(n, s).all() for n, s in zip(needed, shown, strict=True)], float)


def _rows(
    measured: Mapping[tuple[str, int], Mapping[str, np.ndarray]], labels: np.ndarray
) -> list[dict[str, Any]]:
    columns = [(key, name) for key, values_of in measured.items() for name in values_of]
    values = np.stack([measured[key][name] for key, name in columns], axis=1)
    draws = resample([values], [labels])
    means = values.mean(axis=0)
    rows = []
    for key, values_of in measured.items():
        row: dict[str, Any] = {"order": key[0], "passages": key[1]}
        at = {name: columns.index((key, name)) for name in values_of}
        for name, i in at.items():
            row[name] = float(means[i])
        row["all_interval"] = interval(draws[:, at["all"]])
        # What similarity alone finds, and what text in as many positions does.
        rivals = {} if key[0] == SIMILARITY else {"similar": ((SIMILARITY, key[1]), "all")}
        rivals |= {
            name.replace("all_as_", ""): (key, name)
            for name in values_of
            if name.startswith("all_as")
        }
        for rival, column in rivals.items():
            i, j = at["all"], columns.index(column)
            row[f"less_{rival}"] = float(means[i] - means[j])
            row[f"less_{rival}_interval"] = interval(draws[:, i] - draws[:, j])
        rows.append(row)
    return rows
