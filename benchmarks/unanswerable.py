"""How many questions that nothing answers `refrag ask` refuses, and what that costs the others.

    python benchmarks/unanswerable.py --vectors vectors.npz qa/squad.valid.jsonl.zst qa/boolq...
    python benchmarks/unanswerable.py --choose qa/squad.train.jsonl.zst qa/boolq...

The passages of each file, with their titles before them as an index has them, are searched for each
of its questions: as they are; without the passages that answer it; without all of their documents;
and for the questions of the next file. A question is refused if no passage fits, see
``index.matching``. It costs at most those that have an answer among the five best passages. With
--choose, the limit that costs a point is printed instead, for the match and for the cosine alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.search_vectors import ENCODER, SearchVectors
from refrag_components.checking import parse_json
from refrag_components.corpus.tokenised import open_text
from refrag_components.evaluation.statistics import cluster_labels, interval, mean_of_sets, resample
from refrag_components.index.matching import found_nothing, match
from refrag_components.index.types import Hit
from refrag_components.text.tables import markdown_row, markdown_table

K = 5
CONDITIONS = ("answered", "without passage", "without document", "other questions")
Refuse = Callable[[str, Sequence[Hit]], bool]


@dataclass(frozen=True)
class Asked:
    """A question and what its search found.

    Attributes:
        question: The question.
        found: Hits under each of ``CONDITIONS``.
        holds: Whether a passage that answers it is among those of the first.
        documents: Titles of the passages that answer it.
    """

    question: str
    found: list[list[Hit]]
    holds: bool
    documents: list[str]


def rows_of(path: Path, count: int) -> list[dict[str, Any]]:
    """Up to so many questions that can be asked without their passage, drawn from a file."""
    with open_text(path) as lines:
        rows = [parse_json(line) for line in lines]
    rows = [row for row in rows if (row.get("meta") or {}).get("standalone", True) and row["gold"]]
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(chosen)]


def asked(
    rows: list[dict[str, Any]], others: list[dict[str, Any]], vectors: SearchVectors
) -> Iterator[Asked]:
    """Searches the passages of questions for these questions and for others."""
    passages = {passage["id"]: passage for row in rows for passage in row["passages"]}
    texts = [f"{p['title']}\n\n{p['text']}" if p["title"] else p["text"] for p in passages.values()]
    titles = np.array([p["title"] or name for name, p in passages.items()])
    places = {name: place for place, name in enumerate(passages)}
    of_passages = vectors(texts)
    scores = vectors([row["question"] for row in rows]) @ of_passages.T
    of_others = vectors([row["question"] for row in others]) @ of_passages.T

    def best(row: np.ndarray) -> list[Hit]:
        order = [int(i) for i in np.argsort(-row)[:K] if row[i] > -1]
        return [Hit(texts[i], str(titles[i]), float(row[i]), "", {}) for i in order]

    for number, row in enumerate(rows):
        gold = [places[name] for name in row["gold"]]
        documents = sorted({str(titles[i]) for i in gold})
        mine = scores[number]
        absent, gone = mine.copy(), np.where(np.isin(titles, documents), -1, mine)
        absent[gold] = -1
        other = of_others[number % len(others)]
        found = [best(mine), best(absent), best(gone), best(other)]
        holds = any(texts[i] in {hit.text for hit in found[0]} for i in gold)
        yield Asked(row["question"], found, holds, documents)


def refusals(set_: list[Asked], others: list[dict[str, Any]], refuse: Refuse) -> np.ndarray:
    """Per question, in percent: refused, answer lost, then refused under the other conditions."""
    rows = []
    for number, one in enumerate(set_):
        questions = [one.question] * 3 + [others[number % len(others)]["question"]]
        refused = [refuse(q, hits) for q, hits in zip(questions, one.found, strict=True)]
        rows.append([refused[0], refused[0] and one.holds, *refused[1:]])
    return 100 * np.array(rows, dtype=float)


def cells(strata: list[np.ndarray], clusters: list[np.ndarray]) -> list[str]:
    """Means with 95 % intervals over documents."""
    draws = resample(strata, clusters)
    return [
        f"{mean:.1f} ({interval(draws[:, i])[0]:.1f}-{interval(draws[:, i])[1]:.1f})"
        for i, mean in enumerate(mean_of_sets(strata))
    ]


def limit(sets: list[list[Asked]], score: Callable[[str, Sequence[Hit]], float]) -> float:
    """The highest that refuses one per cent of the questions whose answer was found."""
    scores = [np.array([score(one.question, one.found[0]) for one in set_]) for set_ in sets]
    holds = [np.array([one.holds for one in set_]) for set_ in sets]
    for value in np.arange(1.5, -1, -0.005):
        lost = [100 * ((s < value) & h).mean() for s, h in zip(scores, holds, strict=True)]
        if np.mean(lost) <= 1:
            return float(value)
    return -1.0


def main() -> None:
    """Prints a table, or the limits that cost a point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=300, help="per file")
    parser.add_argument("--vectors", type=Path, help="keeps search vectors between runs")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--cosine", type=float, help="a limit of the cosine alone, to compare")
    arguments = parser.parse_args()
    vectors = SearchVectors(arguments.vectors)
    names = [path.name.split(".")[0] for path in arguments.files]
    rows = [rows_of(path, arguments.questions) for path in arguments.files]
    others = rows[1:] + rows[:1]
    sets = [list(asked(mine, more, vectors)) for mine, more in zip(rows, others, strict=True)]
    if arguments.choose:
        print(f"match {limit(sets, match):.3f}")
        print(f"cosine {limit(sets, lambda _, hits: hits[0].score):.3f}")
        return
    clusters = [cluster_labels([one.documents for one in set_]) for set_ in sets]
    head = ["set", "questions", "refused", "answer lost", "without passage", "without document"]
    print(markdown_table([[*head, "others"]]))
    rules: dict[str, Refuse] = {"all": lambda q, hits: found_nothing(q, hits, ENCODER)}
    if arguments.cosine is not None:
        rules["all, cosine alone"] = lambda _, hits: hits[0].score < arguments.cosine
    for label, refuse in rules.items():
        strata = [refusals(s, more, refuse) for s, more in zip(sets, others, strict=True)]
        if label == "all":
            for name, values, groups in zip(names, strata, clusters, strict=True):
                print(markdown_row([name, len(values), *cells([values], [groups])]))
        print(markdown_row([label, sum(map(len, strata)), *cells(strata, clusters)]))


if __name__ == "__main__":
    main()
