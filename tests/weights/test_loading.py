from __future__ import annotations

import gc
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from refrag_components.weights.loading import load_pretrained, quietly


def test_loading_prints_nothing(
    tiny_base: tuple[Path, Path],
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    gc.collect()  # files and sockets that other tests have not closed are told of now
    capfd.readouterr()
    recwarn.clear()
    load_pretrained(AutoModelForCausalLM, tiny_base[0])
    load_pretrained(AutoModel, tiny_base[1])  # has no pooler, which transformers reports
    assert capfd.readouterr() == ("", "")
    assert not recwarn


def test_quiet_ends_with_the_block() -> None:
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    with quietly():
        assert not transformers_logging.is_progress_bar_enabled()
        warnings.warn("nobody hears this", FutureWarning, stacklevel=1)
    assert transformers_logging.is_progress_bar_enabled() == bars
    assert transformers_logging.get_verbosity() == verbosity
    with pytest.warns(FutureWarning):
        warnings.warn("everybody hears this", FutureWarning, stacklevel=1)


def test_missing_weights_are_told(
    tiny_base: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_base[0], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_pretrained(AutoModelForCausalLM, folder)
    assert "broken: 1, such as model.norm.weight" in caplog.text


def test_attention_needs_no_plan_for_every_prompt_length(tiny_base: tuple[Path, Path]) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_pretrained(AutoModelForCausalLM, tiny_base[0])
    assert not torch.backends.cuda.cudnn_sdp_enabled()
