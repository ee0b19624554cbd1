"""Engines by their names in settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from refrag_components.exceptions import EngineError, shown

if TYPE_CHECKING:
    from refrag_components.engines.base import Engine
    from refrag_components.modeling import RefragModel

__all__ = ["DEFAULT_ENGINE", "ENGINES", "check_engine", "make_engine"]

DEFAULT_ENGINE = "transformers"

_VLLM = "vllm"
_SERVER = "vllm+"
#: What names an engine, in words.
ENGINES = f"{DEFAULT_ENGINE}, {_VLLM}, or a vLLM server as {_SERVER}http://gpu:8000/v1"

_KEY = "VLLM_API_KEY"  # vLLM's server has its key in the same variable


def check_engine(name: str) -> None:
    """Refuses a name that no engine has, before anything is loaded.

    Raises:
        EngineError: If it has none.
        MissingExtraError: If it is vLLM in this process, which is not installed.
    """
    if name == _VLLM:
        from refrag_components.engines.vllm_in_process import require_vllm

        require_vllm()
    elif name != DEFAULT_ENGINE and not _is_server(name):
        raise EngineError(f"engine must be {ENGINES}, or an engine; got {shown(name)}")


def make_engine(name: str, model: RefragModel) -> Engine:
    """Starts an engine other than the default one.

    Args:
        name: One that ``check_engine`` allows.
        model: The checkpoint whose decoder it runs.

    Raises:
        EngineError: If it cannot be started, or cannot run this decoder.
        MissingExtraError: As ``check_engine``.
        ServerError: If the server cannot be reached.
    """
    from refrag_components.engines.vllm_engine import VllmEngine

    if name == _VLLM:
        return VllmEngine(model)
    return VllmEngine(
        model, base_url=name.removeprefix(_SERVER), api_key=os.environ.get(_KEY) or None
    )


def _is_server(name: str) -> bool:
    try:
        url = urlsplit(name.removeprefix(_SERVER))
        return name.startswith(_SERVER) and url.scheme in ("http", "https") and bool(url.hostname)
    except ValueError:
        return False
