"""``refrag eval chat``: answers in conversations whose history is compressed."""

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

__all__ = ["chat"]

_NOTE = (
    "Questions in conversations, by turn. The history (of each earlier turn its passages, its "
    "question and its right answer) is the context; the last turn is text in every row. A first "
    "turn has no history and is not among them. *As p* and *last tokens* is the end of the history "
    "as text, as many positions as next to it."
)


def chat(
    sets: Annotated[
        list[Path],
        typer.Argument(help="Conversations, or questions to make them of: .jsonl, .jsonl.zst."),
    ],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    passages: Annotated[
        int,
        typer.Option(
            "--passages", min=1, help="Passages that a turn of a made conversation shows."
        ),
    ] = 2,
    chunk_size: ChunkSizeOption = None,
    method: MethodOption = None,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    positions: PositionsOption = None,
    conversations: Annotated[
        int | None,
        typer.Option("--conversations", min=1, help="Maximum number of conversations per set."),
    ] = 100,
    bf16: BfloatOption = False,
) -> None:
    """Measure answers by turn of a conversation, with its history compressed, cut or in full."""
    from refrag_components.corpus.question_files import set_name
    from refrag_components.evaluation.answers.answering import answer_contexts
    from refrag_components.evaluation.answers.parts import summarise_parts
    from refrag_components.evaluation.answers.turns import by_turn, load_turns, where_shown
    from refrag_components.evaluation.decoding import cache_bytes

    check(method, policy, expanded, positions, plots=False)
    turns = {
        set_name(path): load_turns(path, conversations=conversations, passages=passages)
        for path in sets
    }
    asked = [
        (name, setting, contexts)
        for name, questions in turns.items()
        for setting, contexts in by_turn(questions)
    ]
    loaded = load_model(model, bfloat16=bf16, chunk_size=chunk_size)
    methods = rows(loaded, method, policy, expanded, positions)
    with Bars() as bars:
        results = answer_contexts(loaded, asked, out, methods=methods, progress=bars.advance)
    tables = summarise_parts([*results, *where_shown(results, turns)], ("f1", "em", "log_ppl"))
    per_position = cache_bytes(loaded)
    finish_parts(
        out,
        "chat",
        model,
        tables,
        title="Conversations",
        note=f"{_NOTE} One position takes {per_position:,} bytes of the key-value cache. "
        f"k={loaded.config.chunk_size}.",
        facts={"chunk_size": loaded.config.chunk_size, "cache_bytes_per_position": per_position},
    )
