from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, BloomConfig, GPT2Config

from refrag_components.exceptions import RefragError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.huggingface import cache_argument, end_token_ids, position_limit
from tests.tiny import save_tiny_decoder, tiny_decoder_tokenizer


def test_the_config_comes_first() -> None:
    assert position_limit(GPT2Config(n_positions=77), tiny_decoder_tokenizer()) == 77


def test_the_tokenizer_stands_in_for_a_config_without_a_limit() -> None:
    tokenizer = tiny_decoder_tokenizer()
    assert position_limit(BloomConfig(), tokenizer) == 1024
    tokenizer.model_max_length = int(1e30)  # as transformers does if nothing is known
    with pytest.raises(RefragError, match=r"BloomConfig.*tokenizer_config\.json"):
        position_limit(BloomConfig(), tokenizer)


def test_a_decoder_without_position_embeddings_has_a_window(
    tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    config = BloomConfig(vocab_size=512, hidden_size=32, n_layer=1, n_head=2)
    decoder = save_tiny_decoder(tmp_path / "bloom", config)
    model = RefragModel.from_base(RefragConfig(decoder=str(decoder), encoder=str(tiny_base[1])))
    assert model.window == AutoTokenizer.from_pretrained(decoder).model_max_length == 1024


def test_the_cache_argument_has_the_name_that_the_decoder_gives_it(tiny_model: RefragModel) -> None:
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
