"""Hugging Face models, loaded without output on the terminal."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from refrag_components.checking import parse_json
from refrag_components.exceptions import UnknownModelError

__all__ = ["load_pretrained", "load_tokenizer", "plan_no_attention", "quietly"]

logger = logging.getLogger(__name__)

# PyTorch's threads do not survive a fork; a child that waited for them would hang.
if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

_LAYERS = 10_000  # more than any model has; they are built before anything else is checked

# A folder names neither code to run nor anything to fetch, and nothing in it is unpickled.
_TRUST: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@contextmanager
def quietly() -> Iterator[None]:
    """Silences loading bars, load reports and deprecations of transformers and PEFT.

    They address people who load a model themselves; users of this library can do nothing about
    them.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def plan_no_attention() -> None:
    """Keeps PyTorch from cuDNN's attention in this process.

    cuDNN plans again for every shape, in every thread: training steps took 1.2-2.5 s, of which the
    GPU worked 0.3 s, prompts hardly ever have the same length twice, and in decoding the keys grow
    with each step. The other kernels need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def load_pretrained(auto_class: Any, folder: Path) -> Any:
    """Loads a model in float32 and warns if weights are missing that it needs.

    From then on PyTorch does not use cuDNN's attention, see ``plan_no_attention``.

    Args:
        auto_class: ``AutoModel`` or another auto class.
        folder: Model folder in Hugging Face format.

    Raises:
        UnknownModelError: If its config cannot be read, or names code from elsewhere or layers
            without end.
    """
    _check_config(folder)
    plan_no_attention()
    with quietly():
        model, found = auto_class.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            **_TRUST,
        )
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if missing:  # nothing here uses a pooler
        logger.warning("weights missing in %s: %d, such as %s", folder, len(missing), min(missing))
    return model


def load_tokenizer(folder: Path) -> Any:
    """Loads the tokenizer of a model folder."""
    return AutoTokenizer.from_pretrained(folder, **_TRUST)


def _check_config(folder: Path) -> None:
    """Refuses implementations on the hub, which transformers would fetch, and endless layers."""
    try:
        remaining = [parse_json((folder / "config.json").read_bytes())]
    except (OSError, ValueError) as error:
        raise UnknownModelError(f"{folder} has no readable config.json: {error}") from error
    while remaining:
        value = remaining.pop()
        if isinstance(value, dict):
            remaining += value.values()
            for name, chosen in value.items():
                if str(name).endswith("layers") and isinstance(chosen, int) and chosen > _LAYERS:
                    msg = f"{folder} has a config.json that asks for {chosen:.3g} layers"
                    raise UnknownModelError(msg)
                if str(name).endswith("_implementation") and "/" in str(chosen):
                    msg = (
                        f"{folder} wants code from elsewhere to run ({name}: {chosen}); remove "
                        "that from its config.json"
                    )
                    raise UnknownModelError(msg)
        elif isinstance(value, (list, tuple)):
            remaining += value
