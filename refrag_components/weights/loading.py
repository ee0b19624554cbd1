"""Hugging Face models, loaded without output on the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

__all__ = ["load_pretrained", "quietly"]

logger = logging.getLogger(__name__)


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


def load_pretrained(auto_class: Any, folder: Path) -> Any:
    """Loads a model in float32 and warns if weights are missing that it needs.

    From then on PyTorch does not use cuDNN's attention in this process. cuDNN plans again for every
    shape: training steps took 1.2-2.5 s, of which the GPU worked 0.3 s, and prompts hardly ever
    have the same length twice. The other kernels need no plan.

    Args:
        auto_class: ``AutoModel`` or another auto class.
        folder: Model folder in Hugging Face format.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    with quietly():
        model, found = auto_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if missing:  # nothing here uses a pooler
        logger.warning("weights missing in %s: %d, such as %s", folder, len(missing), min(missing))
    return model
