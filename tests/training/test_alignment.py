"""A decoder learns to think what a reader of the full text thinks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, GPT2Config, LlamaConfig, PretrainedConfig

from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.training.alignment import LayerStates, misalignment
from refrag_components.training.objective import TrainingModel
from tests.tiny import save_tiny_decoder, tiny_decoder_config
from tests.training.adapted import adapted_model, window_batch

LAYERS = {"num_hidden_layers": 5}
DECODERS: list[PretrainedConfig] = [
    tiny_decoder_config(LlamaConfig, **LAYERS),
    tiny_decoder_config(Gemma2Config, head_dim=8, **LAYERS),
    GPT2Config(vocab_size=512, n_embd=32, n_layer=5, n_head=4),
]


WHERE = pytest.mark.parametrize("where", [{"alignment": 1.0}, {"context_alignment": 1.0}], ids=str)


@pytest.fixture(params=DECODERS, ids=lambda config: config.model_type)
def model(
    request: pytest.FixtureRequest, tiny_base: tuple[Path, Path], tmp_path: Path
) -> RefragModel:
    return adapted_model(save_tiny_decoder(tmp_path / "decoder", request.param), tiny_base[1])


def test_states_are_those_between_the_layers(model: RefragModel, run_folder: Path) -> None:
    batch = window_batch(model, run_folder, everywhere=False)
    layers = LayerStates(model)
    assert batch.full_ids is not None
    layers.start()
    whole = model.decoder(input_ids=batch.full_ids, output_hidden_states=True).hidden_states
    kept = layers.take()
    assert len(kept) == 2
    torch.testing.assert_close(kept[0], whole[2].flatten(0, 1))
    model.decoder(input_ids=batch.full_ids)
    assert layers.take() == []


class LastToken(nn.Module):
    """A projector for chunks of one token: that token's embedding."""

    def forward(self, _vectors: Tensor, token_embeddings: Tensor) -> Tensor:
        return token_embeddings[..., -1, :]


@WHERE
@pytest.mark.parametrize("expanded", [0.0, 0.3, 1.0])
def test_whoever_reads_the_full_text_misses_nothing(
    model: RefragModel, run_folder: Path, where: dict[str, float], expanded: float
) -> None:
    model.projector = LastToken()  # type: ignore[assignment]
    everything = window_batch(model, run_folder, everywhere=False, expanded=expanded, chunk_size=1)
    training = TrainingModel(model, **where, next_token=0.0)
    adapted = float(training(**vars(everything))["loss"].detach())
    assert (adapted > 1e-3) == (expanded < 1)  # where there are chunk embeddings
    for name, parameter in model.decoder.named_parameters():
        if CHUNK_ADAPTER in name:
            nn.init.zeros_(parameter)
    assert float(training(**vars(everything))["loss"].detach()) == pytest.approx(0.0, abs=1e-6)


def test_misalignment_is_the_missed_share_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(4000, 8, generator=generator) * torch.tensor([1.0, 300.0] * 4) + 5
    assert float(misalignment(teacher, teacher)) == 0.0
    average = teacher.mean(dim=0).expand_as(teacher)
    assert float(misalignment(average, teacher)) == pytest.approx(1.0, rel=0.05)
    half = (teacher + average) / 2
    assert float(misalignment(half, teacher)) == pytest.approx(0.25, rel=0.05)


@WHERE
def test_training_brings_the_states_closer(
    model: RefragModel, run_folder: Path, where: dict[str, float]
) -> None:
    batch = window_batch(model, run_folder, everywhere=False)
    training = TrainingModel(model, **where, next_token=0.0)
    parameters = [p for n, p in model.named_parameters() if "lora_" in n or "projector" in n]
    adam = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(30):
        loss = training(**vars(batch))["loss"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
