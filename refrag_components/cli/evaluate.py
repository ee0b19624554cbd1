"""``refrag eval``: measurements of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from refrag_components.cli.common import (
    DEFAULT_MODEL,
    BfloatOption,
    ModelOption,
    errors,
    load_model,
    output,
    say,
)
from refrag_components.cli.evaluation_tables import keeping_table, perplexity_table, qa_table

if TYPE_CHECKING:
    from refrag_components.evaluation.methods import Method
    from refrag_components.modeling import RefragModel

__all__ = ["app"]

app = typer.Typer(help="Measure a checkpoint.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option("--out", help="Folder for JSON, Markdown and plots.")]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", help="Policies to compare; by default all that the model has."),
]
ExpandedOption = Annotated[
    list[float] | None,
    typer.Option(
        "--expanded", help="Fractions p of chunks that expand.", show_default=".05 .1 .25 .5"
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method", help="Rows to compare, as `refrag eval methods` lists them; all by default."
    ),
]
PositionsOption = Annotated[
    list[int] | None,
    typer.Option(
        "--positions",
        help="Numbers of decoder positions to fill (ladder, ladder-text).",
        show_default="64 128",
    ),
]
PlotsOption = Annotated[
    bool, typer.Option("--plots/--no-plots", help="Draw PNG files (needs matplotlib).")
]


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
    context: Annotated[int, typer.Option("--context", help="Context tokens, s.")] = 1024,
    out_tokens: Annotated[int, typer.Option("--output", help="Continuation tokens, o.")] = 256,
    policy: PolicyOption = None,
    expanded: ExpandedOption = None,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Also with the context's paragraphs shuffled.")
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

    _check(None, policy, expanded, None, plots=plots)
    corpus = TokenisedCorpus.load(text)
    loaded = load_model(model, bfloat16=bf16)
    methods = _methods(loaded, None, policy, expanded, None, running_text=True)
    tables = []
    with _Bars() as bars:
        for k in chunk_size or [loaded.config.chunk_size]:
            for order in (False, True) if shuffled else (False,):
                table = measure_contexts(
                    loaded,
                    corpus,
                    methods,
                    chunk_size=k,
                    context_tokens=context,
                    output_tokens=out_tokens,
                    shuffled=order,
                    max_windows=windows,
                    progress=bars.advance,
                )
                tables.append(table)
    written = write_perplexity(out, model, tables)
    for table in tables:
        output.print(perplexity_table(table))
    _finish(out, written, draw_plots(out) if plots else [])


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
    chunk_size: Annotated[
        int | None,
        typer.Option("--chunk-size", help="Tokens per chunk, k; the checkpoint's k by default."),
    ] = None,
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

    _check(method, policy, expanded, positions, plots=plots)
    settings = [
        Setting(kind, count)  # type: ignore[arg-type]
        for kind in retrieval or ["given"]
        for count in passages or [5]
    ]
    questions = {set_name(path): load_questions(path, items=items) for path in sets}
    texts = [] if pool is None else read_pool(pool)
    loaded = load_model(model, bfloat16=bf16, chunk_size=chunk_size)
    methods = _methods(loaded, method, policy, expanded, positions)
    with _Bars() as bars:
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
    _finish(out, written, draw_plots(out) if plots else [])


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


def _check(
    kinds: list[str] | None,
    policies: list[str] | None,
    fractions: list[float] | None,
    positions: list[int] | None,
    *,
    plots: bool,
) -> None:
    """Refuses what cannot be measured or drawn before anything is loaded."""
    from refrag_components.evaluation.methods import FRACTIONS, POSITIONS, default_methods
    from refrag_components.evaluation.reports.chart import check_plotting

    if plots:
        check_plotting()
    default_methods(
        policies or ("random",),
        fractions or FRACTIONS,
        positions=positions or POSITIONS,
        kinds=kinds or (),
    )


def _methods(
    model: RefragModel,
    kinds: list[str] | None,
    policies: list[str] | None,
    fractions: list[float] | None,
    positions: list[int] | None,
    *,
    running_text: bool = False,
) -> list[Method]:
    from refrag_components.evaluation.methods import FRACTIONS, POSITIONS, default_methods
    from refrag_components.evaluation.selections import selections_of

    return default_methods(
        policies or selections_of(model),
        fractions or FRACTIONS,
        positions=positions or POSITIONS,
        rungs=() if running_text else model.config.rungs[1:],
        kinds=kinds or (),
        running_text=running_text,
    )


class _Bars:
    """One progress bar per piece of work, made when it begins."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=errors,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.advance(self._tasks[what], done)


def _finish(out: Path, written: list[Path], plots: list[Path]) -> None:
    names = ", ".join(path.name for path in written)
    drawn = f" and {len(plots)} plots" if plots else ""
    say(f"Wrote {names}{drawn} to {out}")
