"""``refrag doctor``: what a report of a problem should begin with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from refrag_components.cli.chain_check import check_chain
from refrag_components.cli.common import output
from refrag_components.exceptions import RefragError
from refrag_components.weights.lookup import base_on_disk, bundled_names
from refrag_components.weights.wheels import KNOWN_BASES

__all__ = ["doctor"]

_PACKAGES = (
    *("refrag-components", "torch", "transformers", "tokenizers", "numpy", "faiss-cpu"),
    *("langchain-core", "llama-index-core", "pypdfium2", "lxml"),
    *("mammoth", "python-calamine", "python-pptx"),  # the extra "office"
)


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="INDEX|CHAIN",
            help="An index, to see its model and store too; or a chain or query engine of yours, "
            "as in app.py:chain, to see which passages it lets through as they are.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help="What to ask the chain: a text, or a JSON object.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what a bug report needs: versions, device, threads, models; or check a chain."""
    from refrag_components.index.folder import META_FILE

    if target is not None and not (Path(target) / META_FILE).is_file():
        if ":" not in target:
            msg = f"{target} is neither an index nor a chain; name a chain as in app.py:chain"
            raise RefragError(msg)
        if question is None:
            raise typer.BadParameter("ask the chain something", param_hint="QUESTION")
        check_chain(target, question)
        return
    facts = {**_facts(), **({} if target is None else _index_facts(Path(target)))}
    width = max(map(len, facts))
    for fact, value in facts.items():
        output.out(f"{fact:{width}}  {value}", highlight=False)


def _facts() -> Mapping[str, str]:
    import torch

    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "threads": f"{torch.get_num_threads()}, on {os.cpu_count()} processors",
        "checkpoints": ", ".join(bundled_names()) or "none",
        **{name: str(base_on_disk(name) or "not fetched yet") for name in KNOWN_BASES},
        **{name: _version(name) for name in _PACKAGES},
    }


def _index_facts(folder: Path) -> Mapping[str, str]:
    from refrag_components.index import index_info
    from refrag_components.index.store import user_store

    info = index_info(folder)
    try:
        opened = user_store(folder, info.store, None).opened
        if opened is not None:
            with opened:
                next(iter(opened.yield_keys()), None)
        state = "can be read"
    except (RefragError, OSError) as error:
        state = str(error)
    return {
        "index": f"{info.folder}: {info.documents} documents, {info.passages} passages",
        "index's model": f"{info.model or 'unknown'}, fingerprint {info.fingerprint}",
        "index's store": f"{info.store or 'in the folder'}: {state}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
