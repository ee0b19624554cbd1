"""How much more a search finds in passages that are cut at sentences and know where they belong.

    git show ad58d18^:refrag_components/text/splitting.py > splitting.py
    python benchmarks/search.py --before splitting.py squad.valid.jsonl.zst tsqa.valid.jsonl.zst

Each file of questions becomes documents as PDFs give them: the passages of each title below one
another, in lines of 90 characters and on pages of 50 lines. To them come all of these together, and
manuals that are made here, whose sections do not repeat which device they are of, and are longer
than a passage. The documents are cut into passages of at most 256 tokens in several ways, and
searched with the encoder that the bundled model searches with. A passage is right if it is from the
question's document, has its answer and shares eight words in a row with what answers it.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.search_vectors import SearchVectors
from refrag_components.checking import parse_json
from refrag_components.corpus.tokenised import open_text
from refrag_components.evaluation.statistics import cluster_labels, interval, resample
from refrag_components.text.passages import document_passages
from refrag_components.text.pdf import joined_pages
from refrag_components.text.splitting import CountTokens, split_passages, token_counter
from refrag_components.text.tables import markdown_row, markdown_table
from refrag_components.weights.loading import load_tokenizer
from refrag_components.weights.lookup import base_folder

DECODER = "HuggingFaceTB/SmolLM2-135M-Instruct"
MAX_TOKENS = 256
RUN = 8
Cut = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Question:
    """A question about one document.

    Attributes:
        text: The question.
        answers: Any of them is right.
        title: Of the document.
        paragraph: What answers it.
    """

    text: str
    answers: tuple[str, ...]
    title: str
    paragraph: str


@dataclass(frozen=True)
class Collection:
    """Documents by title, and questions about them."""

    name: str
    documents: dict[str, str]
    questions: list[Question]


# -- documents ----------------------------------------------------------------------------------


def articles(path: Path) -> Collection:
    """Documents and questions of a file."""
    with open_text(path) as lines:
        rows = [parse_json(line) for line in lines]
    paragraphs: dict[str, dict[str, None]] = {}
    for row in rows:
        for passage in row["passages"]:
            paragraphs.setdefault(passage["title"], {})[passage["text"]] = None
    questions = []
    for row in rows:
        passages = {passage["id"]: passage for passage in row["passages"]}
        gold = passages[row["gold"][0]]
        questions.append(
            Question(row["question"], tuple(row["answers"]), gold["title"], gold["text"])
        )
    documents = {title: printed(list(texts)) for title, texts in paragraphs.items()}
    return Collection(path.name.split(".")[0], documents, questions)


def together(collections: list[Collection]) -> Collection:
    """All their documents in one collection."""
    documents = {title: text for c in collections for title, text in c.documents.items()}
    return Collection("together", documents, [q for c in collections for q in c.questions])


def printed(paragraphs: list[str]) -> str:
    """Text as PDFs give it."""
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, 90)]
    pages = {i: "\n".join(lines[i : i + 50]) for i in range(0, len(lines), 50)}
    return joined_pages(pages)[0]


# Section, what is asked, what is answered; the rest of a section says nothing of the kind.
_SECTIONS = [
    ("Power", "How long does the battery of {} last?", "The battery lasts {} minutes."),
    ("Water", "How much water does the tank of {} hold?", "The tank holds {} millilitres."),
    ("Noise", "How loud is {}?", "At full speed it is {} decibels loud."),
    ("Size", "How heavy is {}?", "Without accessories it weighs {} grams."),
    ("Filter", "How often does the filter of {} have to be changed?", "Change it every {} days."),
    ("Warranty", "For how long is {} under warranty?", "Repairs are free for {} weeks."),
]
_FILLING = (
    "Read this section before you switch it on for the first time, and keep it in a dry place. "
    "Use only parts that the maker has approved, since others may damage it beyond repair. "
    "Children may use it only while an adult is in the same room and watches them. "
    "If anything smells of smoke, pull the plug and wait until all parts have cooled down. "
    "Clean the surface with a soft cloth, never with sand, petrol or a brush of metal. "
    "Our shops answer questions on every working day between nine in the morning and five. "
    "Pictures may differ from what you have bought, as we improve our products all the time. "
)


def manuals() -> Collection:
    """Manuals of thirty devices."""
    rng = np.random.default_rng(0)
    makes = ["Orlo", "Brisk", "Tamsin", "Velda", "Quill"]
    kinds = ["kettle", "mixer", "drill", "fan", "lamp", "heater"]
    documents, questions = {}, []
    for make, kind in product(makes, kinds):
        title = f"{make} {kind}"
        parts = [f"# {title}"]
        for heading, question, answer in _SECTIONS:
            value = str(rng.integers(100, 1000))
            filling = [s.strip(" .") for s in _FILLING.split(". ") if s.strip()]
            sentences = rng.permutation([*filling * 3, answer.format(value).strip(".")])
            section = " ".join(f"{sentence}." for sentence in sentences)
            parts.append(f"## {heading}\n\n{section}")
            questions.append(Question(question.format(f"the {title}"), (value,), title, section))
        documents[title] = "\n\n".join(parts)
    return Collection("manuals", documents, questions)


# -- measuring ----------------------------------------------------------------------------------


def cuts(count: CountTokens, before: Path | None, *, headings: bool) -> Iterator[tuple[str, Cut]]:
    """Ways to cut a document, given its title and text."""
    if before is not None:
        spec = importlib.util.spec_from_file_location("before", before)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield "before", lambda title, text: list(module.split_passages(text, count, MAX_TOKENS))
    yield "sentences first", lambda title, text: split_passages(text, count, MAX_TOKENS)
    yield (
        "and the title",
        lambda title, text: document_passages(
            re.sub(r"^#+ ", "", text, flags=re.MULTILINE), count, MAX_TOKENS, title=title
        ),
    )
    if headings:
        yield (
            "and the heading",
            lambda title, text: document_passages(text, count, MAX_TOKENS, title=title),
        )
    yield (
        "the same, context left out",
        lambda title, text: [
            without_context(title, passage)
            for passage in document_passages(text, count, MAX_TOKENS, title=title)
        ],
    )


def without_context(title: str, passage: str) -> str:
    """A passage without the line that ``document_passages`` puts before it."""
    first, _, rest = passage.partition("\n\n")
    return rest if rest and (first == title or first.startswith(f"{title} > ")) else passage


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of eight words."""
    words = text.split()
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def found(collection: Collection, cut: Cut, vectors: SearchVectors) -> tuple[np.ndarray, float]:
    """Whether the first passage and one of the first five are right, in percent, per question.

    Also the share of passages that begin with a small letter, in the middle of a sentence.
    """
    passages = [
        (title, p) for title, text in collection.documents.items() for p in cut(title, text)
    ]
    texts = [passage for _, passage in passages]
    scores = vectors([q.text for q in collection.questions]) @ vectors(texts).T
    shared = [runs(text) for text in texts]
    plain = [" ".join(text.split()) for text in texts]
    rows = []
    for question, row in zip(collection.questions, scores, strict=True):
        gold = runs(question.paragraph)
        right = [
            passages[i][0] == question.title
            and any(answer in plain[i] for answer in question.answers)
            and not gold.isdisjoint(shared[i])
            for i in np.argsort(-row)[:5]
        ]
        rows.append([right[0], any(right)])
    bodies = [text.rsplit("\n\n", 1)[-1] for text in texts]
    return 100 * np.array(rows, dtype=float), 100 * float(np.mean([b[0].islower() for b in bodies]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--before", type=Path, help="an earlier splitting.py")
    parser.add_argument("--vectors", type=Path, help="keeps search vectors between runs")
    arguments = parser.parse_args()
    vectors = SearchVectors(arguments.vectors)
    count = token_counter(load_tokenizer(base_folder(DECODER)))
    head = ["documents", "passages", "first, %", "of five, %", "more of five than above"]
    print(markdown_table([[*head, "mid-sentence"]]))
    files = list(map(articles, arguments.files))
    for collection in (manuals(), *files, *([together(files)] if len(files) > 1 else [])):
        clusters = cluster_labels([[question.title] for question in collection.questions])
        above: np.ndarray | None = None
        headings = any(
            re.search("^#+ ", text, re.MULTILINE) for text in collection.documents.values()
        )
        for name, cut in cuts(count, arguments.before, headings=headings):
            right, broken = found(collection, cut, vectors)
            draws = resample([right], [clusters])
            shown = [
                f"{mean:.1f} ({interval(draws[:, i])[0]:.1f}-{interval(draws[:, i])[1]:.1f})"
                for i, mean in enumerate(right.mean(axis=0))
            ]
            more = ""
            if above is not None:
                gained = right[:, 1:] - above[:, 1:]
                low, high = interval(resample([gained], [clusters])[:, 0])
                more = f"{gained.mean():+.1f} ({low:+.1f} to {high:+.1f})"
            label = f"{collection.name}, {len(collection.questions)} questions"
            print(markdown_row([label, name, *shown, more, f"{broken:.0f} %"]), flush=True)
            above = right


if __name__ == "__main__":
    main()
