"""``refrag eval``: measurements of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from refrag_components.cli.common import DEFAULT_MODEL, ModelOption, errors, load_model, output

__all__ = ["app"]

app = typer.Typer(help="Measure a checkpoint.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``perplexity`` a subcommand while it is the only one."""


@app.command()
def perplexity(
    text: Annotated[
        Path, typer.Option("--text", help="Held-out text, from `refrag train prepare`.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    chunk_size: Annotated[
        int | None, typer.Option("--chunk-size", help="k; the checkpoint's own by default.")
    ] = None,
    context: Annotated[int, typer.Option("--context", help="Context tokens, s.")] = 1024,
    out_tokens: Annotated[int, typer.Option("--output", help="Continuation tokens, o.")] = 256,
    expanded: Annotated[
        list[float] | None, typer.Option("--expanded", help="Fractions p of random chunks.")
    ] = None,
    windows: Annotated[
        int | None, typer.Option("--windows", help="Windows to measure; all by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
) -> None:
    """Measure how much of the full context's gain compressed context recovers."""
    from refrag_components.corpus import TokenisedCorpus
    from refrag_components.evaluation.perplexity import measure_recovery

    corpus = TokenisedCorpus.load(text)
    fractions = tuple(expanded or (0.0, 0.1, 0.25, 0.5))
    loaded = load_model(model)
    count = min(windows or len(corpus), len(corpus) // (context + out_tokens))
    with Progress(console=errors) as bar:
        task = bar.add_task("windows", total=count * (2 + len(fractions)))
        result = measure_recovery(
            loaded,
            corpus,
            chunk_size=chunk_size or loaded.config.chunk_size,
            context_tokens=context,
            output_tokens=out_tokens,
            fractions=fractions,
            max_windows=windows,
            progress=lambda n: bar.advance(task, n),
        )
    if out is not None:
        out.write_text(json.dumps({"model": model, **result}, indent=2) + "\n", encoding="utf-8")
    output.print(_table(result))


def _table(result: dict[str, Any]) -> Table:
    table = Table(
        title=(
            f"k={result['chunk_size']}, s={result['context_tokens']}, "
            f"o={result['output_tokens']}, {result['windows']} windows"
        )
    )
    for heading in ("context", "rate", "log-ppl", "recovery", "95% interval"):
        table.add_column(heading, justify="left" if heading == "context" else "right")
    table.add_row("none", "", f"{result['none']:.3f}", "0", "")
    for row in result["compressed"]:
        low, high = row["interval"]
        table.add_row(
            f"compressed, p={row['expanded']:g}",
            f"{row['rate']:.2f}",
            f"{row['log_ppl']:.3f}",
            f"{row['recovery']:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    table.add_row("full", "1.00", f"{result['full']:.3f}", "1", "")
    return table
