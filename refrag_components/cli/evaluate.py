"""``refrag eval``: measurements of a checkpoint."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from refrag_components.cli.common import (
    DEFAULT_MODEL,
    BfloatOption,
    ModelOption,
    load_model,
    output,
)
from refrag_components.cli.evaluate_chat import chat
from refrag_components.cli.evaluate_coverage import coverage
from refrag_components.cli.evaluate_examples import examples
from refrag_components.cli.evaluate_summary import summary
from refrag_components.cli.evaluating import (
    Bars,
    ChunkSizeOption,
    ExpandedOption,
    MethodOption,
    OutOption,
    PlotsOption,
    PolicyOption,
    PositionsOption,
    check,
    finish,
    rows,
)
from refrag_components.cli.evaluation_tables import keeping_table, perplexity_table, qa_table

__all__ = ["app"]

_CONTEXT_AT_ONCE = 1 << 14  # tokens of the contexts in one forward pass

app = typer.Typer(help="Measure a checkpoint.", no_args_is_help=True)
for measurement in (chat, summary, examples, coverage):
    app.command()(measurement)


@app.command()
def perplexity(
    text: Annotated[
        Path, typer.Option("--text", help="Held-out text, from `refrag train prepare`.")
    ],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    chunk_size: Annotated[
        list[int] | None,
        typer.Option("--chunk-size", help="Tokens per chunk, k; the checkpoint's k by default."),
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option("--context", help="Context tokens, s.", show_default="1024"),
    ] = None,
    out_tokens: Annotated[int, typer.Option("--output", help="Continuation tokens, o.")] = 256,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Also with the context's paragraphs shuffled.")
    ] = False,
    replug: Annotated[
        bool,
        typer.Option("--replug", help="Also with each passage read by itself (REPLUG)."),
    ] = False,
    windows: Annotated[
        int | None, typer.Option("--windows", help="Number of windows to measure; all by default.")
    ] = None,
    bf16: BfloatOption = False,
    plots: PlotsOption = True,
) -> None:
    """Measure continuations after no, compressed, shortened and full context."""
    from refrag_components.corpus import TokenisedCorpus
    from refrag_components.evaluation.continuation.comparison import measure_contexts
    from refrag_components.evaluation.reports.files import draw_plots, write_perplexity

    check(None, policy, expanded, None, plots=plots)
    corpus = TokenisedCorpus.load(text)
    loaded = load_model(model, bfloat16=bf16)
    methods = rows(loaded, None, policy, expanded, None, running_text=True)
    tables = []
    with Bars() as bars:
        for s, k, order in product(
            context or [1024],
            chunk_size or [loaded.config.chunk_size],
            (False, True) if shuffled else (False,),
        ):
            table = measure_contexts(
                loaded,
                corpus,
                methods,
                chunk_size=k,
                context_tokens=s,
                output_tokens=out_tokens,
                shuffled=order,
                max_windows=windows,
                batch_size=max(_CONTEXT_AT_ONCE // s, 1),
                ensemble=replug,
                progress=bars.advance,
            )
            tables.append(table)
    written = write_perplexity(out, model, tables)
    for table in tables:
        output.print(perplexity_table(table))
    finish(out, written, draw_plots(out) if plots else [])


@app.command()
def qa(
    sets: Annotated[list[Path], typer.Argument(help="Questions: .jsonl or .jsonl.zst files.")],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    pool: Annotated[
        Path | None,
        typer.Option("--pool", help="More passages to retrieve from: .jsonl or .jsonl.zst."),
    ] = None,
    passages: Annotated[
        list[int] | None,
        typer.Option("--passages", help="Passages per question.", show_default="5"),
    ] = None,
    retrieval: Annotated[
        list[str] | None,
        typer.Option(
            "--retrieval",
            help="Which passages a question is asked over; `refrag eval methods` lists them.",
            show_default="given",
        ),
    ] = None,
    gold: Annotated[
        list[str] | None,
        typer.Option(
            "--gold",
            help="Where the passages that answer stand among given ones: start, middle or end.",
            show_default="anywhere",
        ),
    ] = None,
    chunk_size: ChunkSizeOption = None,
    method: MethodOption = None,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    positions: PositionsOption = None,
    items: Annotated[
        int | None, typer.Option("--items", help="Maximum number of questions per set.")
    ] = 500,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder that caches the pool's search vectors.")
    ] = None,
    bf16: BfloatOption = False,
    plots: PlotsOption = True,
) -> None:
    """Measure answers to questions over passages; run again to continue a stopped run."""
    from refrag_components.corpus.question_files import load_questions, set_name
    from refrag_components.evaluation.answers.comparison import evaluate_questions
    from refrag_components.evaluation.answers.contexts import Setting
    from refrag_components.evaluation.answers.pool import read_pool
    from refrag_components.evaluation.answers.summary import summarise
    from refrag_components.evaluation.reports.files import draw_plots, write_qa

    check(method, policy, expanded, positions, plots=plots)
    settings = [
        Setting(kind, count, place)  # type: ignore[arg-type]
        for kind in retrieval or ["given"]
        for count in passages or [5]
        for place in gold or [None]  # type: ignore[list-item]
    ]
    questions = {set_name(path): load_questions(path, items=items) for path in sets}
    texts = [] if pool is None else read_pool(pool)
    loaded = load_model(model, bfloat16=bf16, chunk_size=chunk_size)
    methods = rows(loaded, method, policy, expanded, positions)
    with Bars() as bars:
        results = evaluate_questions(
            loaded,
            questions,
            out,
            methods=methods,
            settings=settings,
            pool=texts,
            cache=cache,
            progress=bars.advance,
        )
    tables = summarise(results)
    written = write_qa(out, model, tables, chunk_size=loaded.config.chunk_size)
    for table in tables:
        output.print(qa_table(table))
        if table["keeping"]:
            output.print(keeping_table(table))
    finish(out, written, draw_plots(out) if plots else [])


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a measurement.")],
) -> None:
    """Draw a measurement's plots again, without the model."""
    from refrag_components.evaluation.reports.files import draw_plots

    for path in draw_plots(folder):
        output.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the rows that `refrag eval qa` compares, and where its passages come from."""
    from refrag_components.evaluation.answers.contexts import RETRIEVALS
    from refrag_components.evaluation.methods import METHODS

    for title, entries in (
        ("--method", {method.kind: method.reads for method in METHODS}),
        ("--retrieval", RETRIEVALS),
    ):
        table = Table(title, "")
        for name, meaning in entries.items():
            table.add_row(name, meaning)
        output.print(table)
