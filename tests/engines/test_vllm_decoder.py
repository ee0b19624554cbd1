from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from refrag_components.engines.vllm_decoder import check_likeliest, export_decoder, probe_ids
from refrag_components.exceptions import EngineError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER, layers_at_chunks


@torch.inference_mode()
def test_what_is_exported_is_the_decoder(either_model: RefragModel, tmp_path: Path) -> None:
    """Of a decoder with an adapter at chunk embeddings, what reads tokens."""
    export_decoder(either_model, tmp_path / "decoder")
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder")
    ids = torch.from_numpy(probe_ids(either_model)).unsqueeze(0)
    assert torch.equal(decoder(ids).logits, either_model.decoder(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    assert tokenizer("a harbour").input_ids == either_model.tokenizer("a harbour").input_ids
    config = decoder.generation_config
    assert config.eos_token_id == either_model.decoder.generation_config.eos_token_id


def test_an_adapter_at_chunk_embeddings_is_exported_beside_it(
    tiny_model: RefragModel, tmp_path: Path
) -> None:
    export_decoder(tiny_model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["RefragLlamaForCausalLM"]
    weights = load_file(tmp_path / "model.safetensors")
    adapted = layers_at_chunks(tiny_model.decoder)
    assert adapted
    for name, layer in adapted.items():
        product = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        assert torch.allclose(product, layer.get_delta_weight(CHUNK_ADAPTER))


def test_an_adapter_at_chunk_embeddings_needs_a_llama(
    tiny_model: RefragModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model.decoder.config, "model_type", "qwen2")
    with pytest.raises(EngineError, match=r"qwen2.*chunk_adapter"):
        export_decoder(tiny_model, tmp_path)


@torch.inference_mode()
def test_another_decoder_is_told_by_what_it_expects(layered_model: RefragModel) -> None:
    ids = probe_ids(layered_model)
    scores = layered_model.decoder(torch.from_numpy(ids).unsqueeze(0)).logits[0, -1].log_softmax(-1)
    token = int(scores.argmax())
    check_likeliest(layered_model, ids, (token, float(scores[token]) + 0.1))
    for other in ((token, float(scores[token]) - 1), (token, float("nan")), (100_000, -0.1)):
        with pytest.raises(EngineError, match="does not run this checkpoint's decoder"):
            check_likeliest(layered_model, ids, other)
