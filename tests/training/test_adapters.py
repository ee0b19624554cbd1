"""Folded adapters compute what PEFT computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from refrag_components.modeling import RefragModel
from refrag_components.training.adapters import fold_adapters
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


def test_folded_adapters_change_no_result_and_no_gradient(model: RefragModel) -> None:
    before = results(model)
    fold_adapters(model)
    after = results(model)
    assert before.keys() == after.keys()
    assert sum("lora_B" in name for name in before) > 4
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_folded_adapter_can_be_switched_off(model: RefragModel) -> None:
    ids = torch.arange(12).unsqueeze(0)
    adapted = model.decoder(input_ids=ids).logits
    with model.decoder.disable_adapter():
        plain = model.decoder(input_ids=ids).logits
    fold_adapters(model)
    with model.decoder.disable_adapter():
        assert torch.equal(model.decoder(input_ids=ids).logits, plain)
    assert not torch.allclose(adapted, plain)


def test_a_folded_model_saves_the_same_checkpoint(model: RefragModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "as-is")
    fold_adapters(model)
    model.save_pretrained(tmp_path / "folded")
    for path in (tmp_path / "as-is").rglob("*.safetensors"):
        other = tmp_path / "folded" / path.relative_to(tmp_path / "as-is")
        assert path.read_bytes() == other.read_bytes(), path.name
