from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
)
from transformers.utils import logging as transformers_logging

from refrag_components.configuration import RefragConfig
from refrag_components.exceptions import RefragError
from refrag_components.modeling import RefragModel
from refrag_components.pretrained import (
    cache_argument,
    end_token_ids,
    load_pretrained,
    position_limit,
    quietly,
)
from tests.tiny import save_tiny_decoder, tiny_decoder_tokenizer


def test_the_config_comes_first() -> None:
    assert position_limit(GPT2Config(n_positions=77), tiny_decoder_tokenizer()) == 77


def test_the_tokenizer_stands_in_for_a_config_without_a_limit() -> None:
    tokenizer = tiny_decoder_tokenizer()
    assert position_limit(BloomConfig(), tokenizer) == 1024
    tokenizer.model_max_length = int(1e30)  # as transformers does where nothing is known
    with pytest.raises(RefragError, match=r"BloomConfig.*tokenizer_config\.json"):
        position_limit(BloomConfig(), tokenizer)


def test_a_decoder_without_a_table_of_positions_has_a_window(
    tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    config = BloomConfig(vocab_size=512, hidden_size=32, n_layer=1, n_head=2)
    decoder = save_tiny_decoder(tmp_path / "bloom", config)
    model = RefragModel.from_base(RefragConfig(decoder=str(decoder), encoder=str(tiny_base[1])))
    assert model.window == AutoTokenizer.from_pretrained(decoder).model_max_length == 1024


def test_loading_prints_nothing(
    tiny_base: tuple[Path, Path],
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
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


def test_the_cache_goes_by_the_name_that_the_decoder_has_for_it(tiny_model: RefragModel) -> None:
    class Older:
        def forward(self, input_ids: object, past_key_values: object) -> None: ...

    class Newer:
        def forward(self, input_ids: object, cache: object, **others: object) -> None: ...

    class Forgetful:
        def forward(self, input_ids: object, state: object) -> None: ...

    assert cache_argument(Older()) == "past_key_values"
    assert cache_argument(Newer()) == "cache"
    assert cache_argument(tiny_model.decoder) in ("cache", "past_key_values")
    with pytest.raises(RefragError, match="Forgetful takes no cache"):
        cache_argument(Forgetful())


def test_end_tokens_of_config_and_tokenizer_count(tiny_model: RefragModel) -> None:
    tokenizer = tiny_model.tokenizer
    ends = end_token_ids(tiny_model.decoder, tokenizer)
    assert {tokenizer.eos_token_id, tokenizer.bos_token_id} <= ends
    assert None not in ends


def test_attention_needs_no_plan_for_every_prompt_length(tiny_base: tuple[Path, Path]) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_pretrained(AutoModelForCausalLM, tiny_base[0])
    assert not torch.backends.cuda.cudnn_sdp_enabled()
