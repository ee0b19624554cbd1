"""``refrag info``: facts about an index or a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from refrag_components.cli.common import load_model, output
from refrag_components.weights import checkpoint_folder

__all__ = ["info"]


def info(
    name: Annotated[
        str,
        typer.Argument(metavar="INDEX|MODEL", help="Index folder, or a checkpoint as for --model."),
    ],
) -> None:
    """Show what an index or a checkpoint is made of."""
    _show(_model_facts(name))


def _model_facts(name: str) -> dict[str, object]:
    folder = checkpoint_folder(name)
    model = load_model(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "folder": folder,
        "size": f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB",
        **dataclasses.asdict(model.config),
        "fingerprint": model.fingerprint,
        "vector width": model.encoder.width,
        "window": f"{model.window} positions",
    }


def _show(facts: dict[str, object]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), str(value))
    output.print(table)
