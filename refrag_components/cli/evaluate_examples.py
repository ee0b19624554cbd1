"""``refrag eval examples``: labels after few or many examples, compressed or as text."""

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
from refrag_components.exceptions import EvaluationError

__all__ = ["examples"]

_LONGEST_LABEL = 8  # tokens
_MOST_DRAWN = 1000  # questions of a file that examples are drawn from, spread evenly

_NOTE = (
    "Questions to label ({}), after examples with all labels alike, in random order. Right: the "
    "first word of the answer is the label. *Fewer passages*: as text the examples most similar to "
    "the question, as many positions as the compressed ones next to them take. k={}."
)


def examples(
    sets: Annotated[list[Path], typer.Argument(help="Questions to label: .jsonl, .jsonl.zst.")],
    out: OutOption,
    shown: Annotated[
        list[Path], typer.Option("--from", help="Questions that examples are drawn from.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="What is to be told: answer (yes or no), set (where a question comes from) or "
            "kind (of answer).",
        ),
    ] = "set",
    count: Annotated[
        list[int] | None,
        typer.Option("--count", min=1, help="Examples per question.", show_default="4 16 64 250"),
    ] = None,
    chunk_size: ChunkSizeOption = None,
    method: MethodOption = None,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    positions: PositionsOption = None,
    items: Annotated[
        int | None, typer.Option("--items", help="Maximum number of questions per set.")
    ] = 50,
    bf16: BfloatOption = False,
) -> None:
    """Measure labels after 4 to hundreds of examples, compressed, chosen as text, or in full."""
    from refrag_components.corpus.question_files import load_questions, set_name
    from refrag_components.evaluation.answers.answering import answer_contexts
    from refrag_components.evaluation.answers.examples import TASKS, example_contexts, labelled
    from refrag_components.evaluation.answers.parts import summarise_parts

    if task not in TASKS:
        raise EvaluationError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    check(method, policy, expanded, positions, plots=False)
    asked = labelled({set_name(p): load_questions(p, items=items) for p in sets}, task)  # type: ignore[arg-type]
    drawn = labelled({set_name(p): load_questions(p, items=_MOST_DRAWN) for p in shown}, task)  # type: ignore[arg-type]
    loaded = load_model(model, bfloat16=bf16, chunk_size=chunk_size)
    methods = rows(loaded, method, policy, expanded, positions)
    contexts = example_contexts(loaded, asked, drawn, count or [4, 16, 64, 250])
    with Bars() as bars:
        results = answer_contexts(
            loaded,
            [(task, setting, examples) for setting, examples in contexts],
            out,
            methods=methods,
            max_new_tokens=_LONGEST_LABEL,
            progress=bars.advance,
        )
    tables = summarise_parts(results, ("em", "log_ppl"))
    k = loaded.config.chunk_size
    finish_parts(
        out,
        "examples",
        model,
        tables,
        title="Many-shot classification",
        note=_NOTE.format(TASKS[task], k),  # type: ignore[index]
        facts={"chunk_size": k, "task": task},
    )
