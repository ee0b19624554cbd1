"""``refrag info``: facts about an index or a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from refrag_components.cli.common import load_model, output
from refrag_components.exceptions import UnknownModelError
from refrag_components.weights.lookup import checkpoint_folder

__all__ = ["info"]


def info(
    name: Annotated[
        str,
        typer.Argument(metavar="INDEX|MODEL", help="Index folder, or a checkpoint as for --model."),
    ],
    documents: Annotated[
        bool, typer.Option("--documents", help="List the documents of an index, one per line.")
    ] = False,
) -> None:
    """Show what an index or a checkpoint is made of."""
    from refrag_components.index.folder import META_FILE, index_documents

    if documents:
        for path in index_documents(name):
            output.out(path, highlight=False)
        return
    try:
        facts = _index_facts(name) if (Path(name) / META_FILE).is_file() else _model_facts(name)
    except UnknownModelError as error:
        raise UnknownModelError(f"{name} is neither an index nor a model: {error}") from error
    width = max(map(len, facts))
    for fact, value in facts.items():
        output.out(f"{fact.replace('_', ' '):{width}}  {value}", highlight=False)


def _index_facts(name: str) -> Mapping[str, Any]:
    from refrag_components.index import index_info

    facts = dataclasses.asdict(index_info(name))
    size = facts.pop("size_bytes")
    counts = {fact: f"{facts[fact]:,}" for fact in ("documents", "passages", "chunks", "tokens")}
    known = {
        "model": facts["model"] or "unknown",
        "codec": facts["codec"] or "the store's",
        "store": facts["store"] or "in the folder",
    }
    return {**facts, **counts, **known, "size": decimal(size)}


def _model_facts(name: str) -> Mapping[str, Any]:
    folder = checkpoint_folder(name)
    model = load_model(name)
    config = dataclasses.asdict(model.config)
    return {
        "folder": folder,
        "fingerprint": model.fingerprint,
        **config,
        "folders": ", ".join(config["folders"]) or "none",
        "trained_policies": ", ".join(model.policies) or "none",
        "vector_width": model.vector_width,
        "window": f"{model.window} positions",
        "size": decimal(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())),
    }
