"""The ``refrag`` command: one module a subcommand, heavy imports only when one runs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from refrag_components.cli import ask, download, index, info
from refrag_components.cli.common import errors, show_progress_messages
from refrag_components.exceptions import RefragError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns errors that a user can do something about into one red message."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the subcommand."""
        try:
            return super().invoke(ctx)
        except (RefragError, OSError) as error:
            errors.print(f"Error: {error}", style="bold red", markup=False, highlight=False)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    name="refrag",
    help="Index documents and ask them, with chunk embeddings instead of context tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=show_progress_messages,
)
app.command("index")(index.index)
app.command("ask")(ask.ask)
app.command("info")(info.info)
app.command("download")(download.download)


def main() -> None:
    """Runs the command line."""
    app()
