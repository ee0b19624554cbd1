"""The ``refrag`` command: one module per subcommand; heavy imports only when one runs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from refrag_components.cli import (
    ask,
    bench,
    chat,
    demo,
    doctor,
    download,
    evaluate,
    forget,
    index,
    info,
    remove,
    serve,
    show,
    train,
)
from refrag_components.cli.common import say, set_up
from refrag_components.exceptions import RefragError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns errors that a user can do something about into one red message."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the subcommand."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever reads the output has seen enough, such as head
            raise
        except (RefragError, OSError) as error:
            say(f"Error: {error}", "bold red")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    name="refrag",
    help="Index documents and ask about them, with chunk embeddings instead of context tokens.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    callback=set_up,
)
app.command("index")(index.index)
app.command("ask", cls=ask.AskCommand)(ask.ask)
app.command("chat")(chat.chat)
app.command("show")(show.show)
app.command("remove")(remove.remove)
app.command("forget")(forget.forget)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.command("download")(download.download)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Runs the command line."""
    app()
