"""What the measurements of ``refrag eval`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from refrag_components.cli.common import errors, output, say
from refrag_components.cli.evaluation_tables import parts_table

if TYPE_CHECKING:
    from refrag_components.evaluation.methods import Method
    from refrag_components.modeling import RefragModel

__all__ = [
    "Bars",
    "ExpandedOption",
    "MethodOption",
    "OutOption",
    "PlotsOption",
    "PolicyOption",
    "PositionsOption",
    "check",
    "finish",
    "finish_parts",
    "rows",
]

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
        help="Numbers of decoder positions to fill (ladder, ladder-text, latest).",
        show_default="64 128",
    ),
]
ChunkSizeOption = Annotated[
    int | None,
    typer.Option("--chunk-size", help="Tokens per chunk, k; the checkpoint's k by default."),
]
PlotsOption = Annotated[
    bool, typer.Option("--plots/--no-plots", help="Draw PNG files (needs matplotlib).")
]


def check(
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


def rows(
    model: RefragModel,
    kinds: list[str] | None,
    policies: list[str] | None,
    fractions: list[float] | None,
    positions: list[int] | None,
    *,
    running_text: bool = False,
) -> list[Method]:
    """The rows to compare; those of all policies that the model has, if none is named."""
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


class Bars:
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

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Moves a bar on, as ``Progress`` is called."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.advance(self._tasks[what], done)


def finish(out: Path, written: list[Path], plots: list[Path]) -> None:
    """Tells what was written."""
    names = ", ".join(path.name for path in written)
    drawn = f" and {len(plots)} plots" if plots else ""
    say(f"Wrote {names}{drawn} to {out}")


def finish_parts(
    out: Path,
    name: str,
    model: str,
    tables: list[dict[str, Any]],
    *,
    title: str,
    note: str,
    facts: dict[str, Any],
) -> None:
    """Writes tables of parts as ``write_parts`` does, prints them, and tells what was written."""
    from refrag_components.evaluation.reports.parts import write_parts

    written = write_parts(out, name, model, tables, title=title, note=note, facts=facts)
    for table in tables:
        output.print(parts_table(table))
    finish(out, written, [])
