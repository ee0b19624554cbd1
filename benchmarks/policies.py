"""How often what a policy expands contains the answer to a question, and in how many spans.

    python benchmarks/policies.py QUESTIONS... --out results.json

QUESTIONS are .jsonl or .jsonl.zst files as `refrag eval qa` reads them; distractors come from the
same file. Only questions whose answer occurs word for word in a passage count. Nothing is
generated: whatever the decoder, it does not see as text what a policy leaves compressed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refrag_components.corpus.question_files import load_questions, set_name
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.selections import chunk_scores, selections_of
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget, PolicyInputs, select
from refrag_components.text.chunking import ChunkedPassage
from refrag_components.vectors import CODECS, ChunkVectors, Codec

FRACTIONS = (0.05, 0.1, 0.25)


def answer_chunks(passage: ChunkedPassage, answers: tuple[str, ...]) -> Iterator[np.ndarray]:
    """For each occurrence of an answer in a passage the indices of its chunks."""
    first = passage.offsets[passage.bounds[:, 0], 0]
    last = passage.offsets[passage.bounds[:, 1], 1]
    for answer in filter(None, answers):
        for found in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", passage.text):
            yield np.flatnonzero((first < found.end()) & (last > found.start()))


def occurrences(context: Context, chunked: dict[str, ChunkedPassage]) -> list[np.ndarray]:
    """The same among all chunks of a context, only in passages that answer the question."""
    found = []
    first = 0
    for text in context.passages:
        if text in context.question.needed:
            in_passage = answer_chunks(chunked[text], context.question.answers)
            found += [first + chunks for chunks in in_passage]
        first += len(chunked[text].bounds)
    return [chunks for chunks in found if len(chunks)]


def measure(
    model: RefragModel, contexts: list[Context], codec: Codec = "float32"
) -> list[dict[str, Any]]:
    """One row per policy and fraction."""
    texts = list(dict.fromkeys(text for context in contexts for text in context.passages))
    chunked = dict(zip(texts, model.chunker.chunk(texts), strict=True))
    stored = [vectors.to_bytes(codec) for vectors in model.encode_passages(texts)]
    vectors = dict(zip(texts, map(ChunkVectors.from_bytes, stored), strict=True))
    found = [
        (context, answers) for context in contexts if (answers := occurrences(context, chunked))
    ]
    questions = model.encode_questions([context.question.text for context, _ in found])
    inputs = [
        PolicyInputs([vectors[text] for text in context.passages], question)
        for (context, _), question in zip(found, questions, strict=True)
    ]
    rows = []
    read_by_the_decoder = ("perplexity", "perplexity-ascending")
    for policy in selections_of(model):
        if policy in read_by_the_decoder:
            continue
        scores = chunk_scores(policy, model, inputs)
        for fraction in FRACTIONS:
            masks = [select(prompt_scores, FractionBudget(fraction)) for prompt_scores in scores]
            covered = [
                any(mask[chunks].all() for chunks in answers)
                for mask, (_, answers) in zip(masks, found, strict=True)
            ]
            spans = [np.diff(mask.astype(int), prepend=0).clip(min=0).sum() for mask in masks]
            rows.append(
                {
                    "policy": policy,
                    "expanded": fraction,
                    "questions": len(found),
                    "covered": float(np.mean(covered)),
                    "pieces": float(np.mean(spans)),
                }
            )
    return rows


def main() -> None:
    """Measures every set and writes the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--codec", choices=CODECS, default="float32")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = RefragModel.from_pretrained(options.model)
    results = {}
    for path in options.questions:
        questions = load_questions(path, items=options.items)
        pool = PassagePool(model, [])
        pool.add([text for question in questions for text in (*question.needed, *question.others)])
        (contexts,) = draw_contexts(questions, [Setting("given", options.passages)], pool)
        results[set_name(path)] = rows = measure(model, contexts, options.codec)
        for row in rows:
            print(set_name(path), json.dumps(row), file=sys.stderr, flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
