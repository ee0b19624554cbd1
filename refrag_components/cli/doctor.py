"""``refrag doctor``: what a report of a problem should begin with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from refrag_components.cli.common import output
from refrag_components.weights.lookup import bundled_names

__all__ = ["doctor"]

_PACKAGES = (
    *("refrag-components", "torch", "transformers", "tokenizers", "numpy", "faiss-cpu"),
    *("langchain-core", "llama-index-core", "pypdfium2", "lxml"),
    *("mammoth", "python-calamine", "python-pptx"),  # the extra "office"
)


def doctor() -> None:
    """Show versions, device, threads and bundled checkpoints, as a bug report needs them."""
    import torch

    facts = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "threads": f"{torch.get_num_threads()}, on {os.cpu_count()} processors",
        "checkpoints": ", ".join(bundled_names()) or "none",
        **{name: _version(name) for name in _PACKAGES},
    }
    width = max(map(len, facts))
    for fact, value in facts.items():
        output.out(f"{fact:{width}}  {value}", highlight=False)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
