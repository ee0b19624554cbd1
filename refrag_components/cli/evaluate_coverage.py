"""``refrag eval coverage``: whether a search finds all passages that an answer needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from refrag_components.cli.common import DEFAULT_MODEL, ModelOption, load_model
from refrag_components.cli.common import output as printed
from refrag_components.cli.evaluating import Bars, OutOption, finish

__all__ = ["coverage"]


def coverage(
    sets: Annotated[list[Path], typer.Argument(help="Questions: .jsonl or .jsonl.zst files.")],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    pool: Annotated[
        Path | None, typer.Option("--pool", help="More passages to search: .jsonl or .jsonl.zst.")
    ] = None,
    passages: Annotated[
        list[int] | None,
        typer.Option("--passages", min=1, help="Passages to find.", show_default="5 10 20 40"),
    ] = None,
    diversity: Annotated[
        list[float] | None,
        typer.Option(
            "--diversity",
            min=0,
            max=1,
            help="How much passages are to differ (MMR), in addition to similarity alone.",
            show_default=".1 .3 .5",
        ),
    ] = None,
    clusters: Annotated[
        list[int] | None,
        typer.Option(
            "--clusters",
            min=1,
            help="Clusters of candidates whose best passages are taken in turn.",
            show_default="5 10 20",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder that caches the pool's search vectors.")
    ] = None,
    items: Annotated[
        int | None, typer.Option("--items", help="Maximum number of questions per set.")
    ] = 500,
) -> None:
    """Measure how often all passages that an answer needs are found, similar or diverse."""
    from refrag_components.corpus.question_files import load_questions, set_name
    from refrag_components.evaluation.answers.coverage import measure_coverage
    from refrag_components.evaluation.answers.pool import read_pool
    from refrag_components.evaluation.reports.coverage import write_coverage

    questions = {set_name(path): load_questions(path, items=items) for path in sets}
    texts = [] if pool is None else read_pool(pool)
    loaded = load_model(model)
    in_sets = {
        text for group in questions.values() for q in group for text in (*q.needed, *q.others)
    }
    total = len(in_sets.union(texts))
    with Bars() as bars:
        tables = measure_coverage(
            loaded,
            questions,
            passages=passages or [5, 10, 20, 40],
            diversities=diversity or [0.1, 0.3, 0.5],
            clusters=clusters or [5, 10, 20],
            pool=texts,
            cache=cache,
            progress=lambda n: bars.advance("search vectors", n, total),
        )
    written = write_coverage(out, model, tables)
    for table in tables:
        shown = Table("order", "passages", "all found", "one found", title=table["set"])
        for row in table["rows"]:
            low, high = row["all_interval"]
            shown.add_row(
                row["order"],
                str(row["passages"]),
                f"{row['all']:.1%} ({low:.1%} to {high:.1%})",
                f"{row['any']:.1%}",
            )
        printed.print(shown)
    finish(out, written, [])
