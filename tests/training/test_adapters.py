"""Adapters that training attaches, folded and at chunk embeddings alone, compute what PEFT does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER, FoldedWeights
from tests.tiny import save_tiny_decoder, tiny_decoder_config
from tests.training.adapted import adapted_model


@pytest.fixture(params=["llama", "transposed weights and biases"])
def model(
    request: pytest.FixtureRequest, tiny_base: tuple[Path, Path], tmp_path: Path
) -> RefragModel:
    decoder = tiny_base[0]
    if request.param != "llama":
        config = tiny_decoder_config(GPT2Config, activation_function="gelu")
        decoder = save_tiny_decoder(tmp_path / "decoder", config)
    return adapted_model(decoder, tiny_base[1])


def unfold(model: RefragModel) -> None:
    """Gives the adapted layers PEFT's own forward pass back."""
    for layer in model.modules():
        if "forward" in vars(layer) and hasattr(layer, "lora_A"):
            del layer.forward


def results(model: RefragModel) -> dict[str, torch.Tensor]:
    """Logits, encoder states and every adapter's gradient."""
    ids = torch.arange(24).reshape(2, 12)
    logits = model.decoder(input_ids=ids).logits
    states = model.encoder.model(input_ids=ids % 10).last_hidden_state
    (logits.square().mean() + states.square().mean()).backward()
    found = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if "lora_" in name and parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return {"logits": logits.detach(), "states": states.detach(), **found}


def assert_equal_to_peft(model: RefragModel) -> None:
    """Compares results and gradients with those of PEFT's own layers."""
    ours = results(model)
    unfold(model)
    theirs = results(model)
    assert ours.keys() == theirs.keys()
    assert sum("lora_B" in name for name in ours) > 4
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_plain_text_is_read_with_the_adapter_for_all_positions_alone(model: RefragModel) -> None:
    assert_equal_to_peft(model)  # PEFT has one adapter active, "default"


def test_weights_folded_once_for_a_step_compute_the_same(model: RefragModel) -> None:
    ids = torch.arange(24).reshape(2, 12)
    each_pass = results(model)
    folded = FoldedWeights(model)
    folded.make()
    once = results(model)
    for name, value in each_pass.items():
        torch.testing.assert_close(once[name], value, atol=1e-5, rtol=1e-4, msg=name)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if "lora_B.default" in name:
                parameter += 0.5  # a step of learning
        stale = model.decoder(input_ids=ids).logits
        folded.forget()
        assert torch.equal(stale, each_pass["logits"])
        assert not torch.allclose(model.decoder(input_ids=ids).logits, stale)


def test_at_chunk_embeddings_both_adapters_are_at_work(model: RefragModel) -> None:
    model.decoder.base_model.set_adapter(["default", CHUNK_ADAPTER])
    with model.chunk_mask.using(torch.ones(2, 12, dtype=torch.bool)):
        assert_equal_to_peft(model)


def test_the_chunk_adapter_changes_nothing_before_the_first_chunk(model: RefragModel) -> None:
    ids = torch.arange(24).reshape(2, 12)
    plain = model.decoder(input_ids=ids).logits
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 5] = True
    with model.chunk_mask.using(mask):
        read = model.decoder(input_ids=ids).logits
    torch.testing.assert_close(read[0, :5], plain[0, :5])
    torch.testing.assert_close(read[1], plain[1])
    assert not torch.allclose(read[0, 5], plain[0, 5])
    assert not torch.allclose(read[0, 6], plain[0, 6])
    assert torch.equal(model.decoder(input_ids=ids).logits, plain)


def test_a_folded_adapter_can_be_switched_off(model: RefragModel) -> None:
    ids = torch.arange(12).unsqueeze(0)
    adapted = model.decoder(input_ids=ids).logits
    with model.decoder.disable_adapter():
        plain = model.decoder(input_ids=ids).logits
    unfold(model)
    with model.decoder.disable_adapter():
        assert torch.equal(model.decoder(input_ids=ids).logits, plain)
    assert not torch.allclose(adapted, plain)


def test_a_folded_model_saves_the_same_checkpoint(model: RefragModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "folded")
    unfold(model)
    model.save_pretrained(tmp_path / "as-is")
    for path in (tmp_path / "as-is").rglob("*.safetensors"):
        other = tmp_path / "folded" / path.relative_to(tmp_path / "as-is")
        assert path.read_bytes() == other.read_bytes(), path.name
