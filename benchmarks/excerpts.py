"""What excerpts leave of an answer, at equal tokens with what a sceptic would do instead.

    python benchmarks/excerpts.py QUESTIONS... --out excerpts.md

QUESTIONS are .jsonl or .jsonl.zst files as `refrag eval qa` reads them. The checkpoint's decoder
reads everything as text, so no row depends on chunk embeddings. Rivals: all passages; the passages
most similar to the question, as many whole ones as fit (what a reranker does); the first sentences
of all passages; sentences drawn at random. Brackets hold 95% bootstrap intervals over clusters of
questions on one passage, of the difference to excerpts in whole sentences. Times are with stored
chunk vectors, and with passages that a search has ordered by similarity.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from refrag_components.corpus.question_files import load_questions
from refrag_components.engines.sampling import SamplingParams
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.messages import messages
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.squad import occurs_in, score
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.statistics import cluster_labels, interval, resample
from refrag_components.excerpts import Excerpter
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import Message, PassagePart, TextPart
from refrag_components.prompts.rendering import render
from refrag_components.text.splitting import CountTokens, sentence_spans, token_counter

TIMES = (2, 4, 8)
_AT_ONCE = 64
_ANSWER = SamplingParams(max_tokens=32)

Read = Callable[[Context], list[str]]


def whole_passages(times: int, count: CountTokens) -> Read:
    """The most similar passages that fit, in prompt order."""

    def read(context: Context) -> list[str]:
        tokens = count(list(context.passages))
        room, kept = sum(tokens) / times, []
        for i in context.similar:
            if tokens[i] <= room:
                kept.append(i)
                room -= tokens[i]
        return [context.passages[i] for i in sorted(kept)]

    return read


def sentences(times: int, count: CountTokens, *, drawn: bool) -> Read:
    """Sentences that fit: the first ones of each passage in turn, or any."""

    def read(context: Context) -> list[str]:
        spans = [sentence_spans(text) for text in context.passages]
        places = [(n, i) for i, own in enumerate(spans) for n in range(len(own))]
        if drawn:
            np.random.default_rng(context.question.seed).shuffle(places)
        else:
            places.sort()
        room, kept = sum(count(list(context.passages))) / times, set()
        for n, i in places:
            start, end = spans[i][n]
            (tokens,) = count([context.passages[i][start:end]])
            if tokens <= room:
                kept.add((i, n))
                room -= tokens
        texts = [
            " ".join(text[slice(*spans[i][n])] for n in range(len(spans[i])) if (i, n) in kept)
            for i, text in enumerate(context.passages)
        ]
        return [text for text in texts if text]

    return read


def excerpts(generator: RefragGenerator, **options: object) -> Read:
    """What the policy would expand, as text."""
    excerpter = Excerpter(generator.model, store=generator.store, **options)  # type: ignore[arg-type]

    def read(context: Context) -> list[str]:
        made = excerpter.extract(context.question.text, context.passages)
        return [excerpt.text for excerpt in made if excerpt.text]

    return read


def answers(generator: RefragGenerator, contexts: Sequence[Context], read: list[list[str]]) -> list:
    """Answers from plain text."""
    tokenizer = generator.model.tokenizer
    requests = []
    for context, texts in zip(contexts, read, strict=True):
        asked = messages(context.question.text, texts)
        plain = [Message(m.role, tuple(TextPart(part.text) for part in m.parts)) for m in asked]
        requests.append(Request(render(plain, tokenizer), context.question.text))
    starts = range(0, len(requests), _AT_ONCE)
    return [a for i in starts for a in generator.generate(requests[i : i + _AT_ONCE], _ANSWER)]


def main() -> None:
    """Measures all sets together and writes one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = RefragModel.from_pretrained(options.model)
    generator = RefragGenerator(model)
    count = token_counter(model.tokenizer)
    contexts: list[Context] = []
    passages: list[list[str]] = []  # ids of those that each question is about
    for path in options.questions:
        questions = [q for q in load_questions(path, items=options.items) if q.answers]
        pool = PassagePool(model, [])
        pool.add([text for q in questions for text in (*q.needed, *q.others)])
        (drawn,) = draw_contexts(questions, [Setting("given", options.passages)], pool)
        contexts += drawn
        passages += [[f"{path} {own}" for own in each.question.needed_ids] for each in drawn]
    texts = dict.fromkeys(text for context in contexts for text in context.passages)
    loader = PassageLoader(model, generator.store, waits=True)
    loader.load([PassagePart(text) for text in texts])
    rows: dict[str, Read] = {"all passages": lambda context: list(context.passages)}
    for times in TIMES:
        of = f", 1/{times} of the tokens"
        rows[f"excerpts in sentences{of}"] = excerpts(generator, budget=1 / times)
        rows[f"excerpts in words{of}"] = excerpts(generator, budget=1 / times, unit="words")
        rows[f"most similar passages{of}"] = whole_passages(times, count)
        rows[f"first sentences{of}"] = sentences(times, count, drawn=False)
        rows[f"any sentences{of}"] = sentences(times, count, drawn=True)
    rows['excerpts in sentences, "auto"'] = excerpts(generator, budget="auto")
    clusters = [cluster_labels(passages)]
    every = sum(sum(count(list(context.passages))) for context in contexts)
    body, reference = [], np.zeros(len(contexts))
    for name, read in rows.items():
        for context in contexts[:1]:
            read(context)
        started = time.perf_counter()
        reads = [read(context) for context in contexts]
        took = (time.perf_counter() - started) / len(contexts)
        taken = sum(sum(count(each)) for each in reads if each)
        said = answers(generator, contexts, reads)
        f1 = np.array(
            [
                100 * score(a.text, c.question.answers, by_word=c.question.kind == "yes/no")[1]
                for a, c in zip(said, contexts, strict=True)
            ]
        )
        shown = [occurs_in(c.question.answers, t) for c, t in zip(contexts, reads, strict=True)]
        if "in sentences" in name or name == "all passages":
            reference, less = f1, "-"
        else:
            low, high = interval(resample([(reference - f1)[:, None]], clusters)[:, 0])
            less = f"{(reference - f1).mean():+.1f} ({low:+.1f} to {high:+.1f})"
        cells = [f"{100 * taken / every:.1f} %", f"{f1.mean():.1f}", less]
        body.append([name, *cells, f"{100 * np.mean(shown):.0f} %", f"{1000 * took:.1f}"])
        print(body[-1], flush=True)
    head = ["tokens", "F1", "excerpts in sentences less this", "answer in it", "ms per call"]
    lines = markdown_table(["what is read", *head], body)
    text = f"{len(contexts):,} questions, {options.passages} passages each.\n\n"
    options.out.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
