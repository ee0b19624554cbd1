"""``refrag eval summary``: summaries of documents that are compressed, cut or read in full."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refrag_components.cli.common import DEFAULT_MODEL, BfloatOption, ModelOption, load_model
from refrag_components.cli.evaluating import (
    Bars,
    ChunkSizeOption,
    ExpandedOption,
    MethodOption,
    OutOption,
    PolicyOption,
    PositionsOption,
    check,
    finish_parts,
    rows,
)

__all__ = ["summary"]

_NOTE = (
    "Questions on whole documents, answered by summaries of up to {} tokens. The passages of the "
    "document, among those of others where there are several documents, are the context. ROUGE are "
    "F-measures by torchmetrics without stemming, the best over all right answers; log-ppl is that "
    "of the first 64 tokens of the shortest one. *First* and *last tokens* and *fewer passages* "
    "are text in as many positions as the compressed context next to them. k={}."
)


def summary(
    sets: Annotated[
        list[Path],
        typer.Argument(help="Questions with all passages of their document: .jsonl, .jsonl.zst."),
    ],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    documents: Annotated[
        list[int] | None,
        typer.Option(
            "--documents",
            min=1,
            help="Documents per question: its own one among others.",
            show_default="1",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest summary in tokens.")
    ] = 128,
    chunk_size: ChunkSizeOption = None,
    method: MethodOption = None,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    positions: PositionsOption = None,
    items: Annotated[
        int | None, typer.Option("--items", help="Maximum number of questions per set.")
    ] = 100,
    bf16: BfloatOption = False,
) -> None:
    """Measure summaries of long documents by ROUGE, also of more text than the window holds."""
    from refrag_components.corpus.question_files import load_questions, set_name
    from refrag_components.evaluation.answers.answering import answer_contexts
    from refrag_components.evaluation.answers.parts import summarise_parts
    from refrag_components.evaluation.answers.rouge import ROUGE, check_rouge
    from refrag_components.evaluation.answers.stories import story_contexts, with_rouge

    check(method, policy, expanded, positions, plots=False)
    check_rouge()
    questions = {
        set_name(path): [q for q in load_questions(path, items=items) if q.answers] for path in sets
    }
    loaded = load_model(model, bfloat16=bf16, chunk_size=chunk_size)
    methods = rows(loaded, method, policy, expanded, positions)
    asked = [
        (name, setting, contexts)
        for name, questions_of in questions.items()
        for setting, contexts in story_contexts(loaded, questions_of, documents or [1])
    ]
    with Bars() as bars:
        results = answer_contexts(
            loaded, asked, out, methods=methods, max_new_tokens=max_tokens, progress=bars.advance
        )
        judged = []
        for result in results:
            judged.append(with_rouge(result, questions[result.set]))
            bars.advance("ROUGE", 1, len(results))
    tables = summarise_parts(judged, (*ROUGE, "log_ppl"))
    k = loaded.config.chunk_size
    finish_parts(
        out,
        "summary",
        model,
        tables,
        title="Summaries",
        note=_NOTE.format(max_tokens, k),
        facts={"chunk_size": k, "max_tokens": max_tokens},
    )
