"""A checkpoint all of whose weights were trained: its model and its files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, PretrainedConfig

from refrag_components.engines.layout import Layout, PassageSegment
from refrag_components.exceptions import UnknownModelError, UnknownPolicyError
from refrag_components.modeling import RefragModel, trained_weights
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.policy_network import POLICY_FILE, PolicyNetwork, save_networks
from refrag_components.policies import DEFAULT_POLICY, PolicyInputs, make_policy
from tests.engines.layouts import logits, segment, text_segment
from tests.tiny import TEXT, layered_config, save_tiny_decoder, tiny_decoder_config

PARTS = ("decoder", "encoder", "projector")


@pytest.fixture
def copied(layered_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(layered_folder, folder)
    return folder


def file_of(folder: Path, part: str) -> Path:
    return folder / f"{part}-00001-of-00001.safetensors"


def compressed(model: RefragModel) -> Tensor:
    """Logits over passages of which a part is compressed."""
    passages = [segment(model, text, 0.3) for text in TEXT]
    return logits(model, [Layout((text_segment(model, "So"), *passages))])


def test_all_expanded_equals_the_plain_decoder_bit_for_bit(layered_model: RefragModel) -> None:
    question = text_segment(layered_model, "Where is the harbour?")
    passages = [segment(layered_model, text, 1.0) for text in TEXT]
    ids = np.concatenate([question.token_ids, *(p.vectors.token_ids for p in passages)])
    with torch.inference_mode():
        plain = layered_model.decoder(input_ids=torch.from_numpy(ids)[None]).logits
    assert torch.equal(logits(layered_model, [Layout((question, *passages))]), plain)


def test_a_compressed_passage_is_read(layered_model: RefragModel) -> None:
    so = text_segment(layered_model, "So")
    one, other = (
        logits(layered_model, [Layout((so, segment(layered_model, text, 0.0), so))])[0, -1]
        for text in TEXT[:2]
    )
    assert (one - other).abs().max() > 0.01


def test_batches_of_passages_equal_single_passages(layered_model: RefragModel) -> None:
    together = layered_model.encode_passages([*TEXT, "", "🙂 naïve 北京"], batch_size=3)
    for text, vectors in zip(TEXT, together, strict=False):
        (alone,) = layered_model.encode_passages([text])
        assert np.array_equal(alone.token_ids, vectors.token_ids)
        np.testing.assert_allclose(alone.vectors, vectors.vectors, atol=2e-3)
        assert vectors.width == layered_model.encoder.width == 32
    assert together[5].n_chunks == 0


@pytest.mark.parametrize(("rung", "group"), [(None, 1), (4, 1), (8, 2), (16, 4)])
def test_a_rung_joins_the_chunks_of_each_passage(
    layered_model: RefragModel, rung: int | None, group: int
) -> None:
    passages = layered_model.encode_passages(TEXT)
    together = layered_model.chunk_embeddings(passages, rung)
    alone = [layered_model.chunk_embeddings([passage], rung) for passage in passages]
    assert [len(rows) for rows in alone] == [-(-p.n_chunks // group) for p in passages]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_rung_that_the_checkpoint_lacks_is_refused(
    layered_model: RefragModel, tiny_model: RefragModel
) -> None:
    with pytest.raises(ValueError, match=r"has the rungs \(4, 8, 16\), not 12"):
        layered_model.chunk_embeddings(layered_model.encode_passages(TEXT), 12)
    with pytest.raises(ValueError, match=r"has the rungs \(4,\), not 8"):
        tiny_model.chunk_embeddings(tiny_model.encode_passages(TEXT), 8)
    vectors, ids = torch.zeros(3, 32), torch.zeros(3, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="rung 8 joins chunks of a passage; pass counts"):
        layered_model.project(vectors, ids, ids == 0, rung=8)


def test_a_checkpoint_with_another_encoder_is_not_trained(tiny_folder: Path) -> None:
    with pytest.raises(UnknownModelError, match="load and serve, but are not trained"):
        RefragModel.for_training(tiny_folder)


def test_another_chunk_size_is_refused(layered_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"works with chunks of 4 tokens only.* one of its rungs"):
        RefragModel.from_pretrained(layered_folder, device="cpu", chunk_size=8)


def test_search_vectors_are_the_hugging_face_encoders(
    layered_model: RefragModel, tiny_model: RefragModel
) -> None:
    vectors = layered_model.search_vectors(TEXT)
    np.testing.assert_array_equal(vectors, tiny_model.search_vectors(TEXT))
    assert vectors.shape == (len(TEXT), layered_model.retriever.width)


def test_what_was_loaded_is_saved_as_it_was(layered_model: RefragModel, tmp_path: Path) -> None:
    layered_model.save_pretrained(tmp_path / "again")
    again = RefragModel.from_pretrained(tmp_path / "again", device="cpu")
    assert again.fingerprint == layered_model.fingerprint
    assert torch.equal(compressed(again), compressed(layered_model))


@pytest.mark.parametrize(("bits", "near"), [(4, 0.12), (8, 0.01)])
def test_training_goes_on_from_what_was_saved(
    layered_folder: Path, tmp_path: Path, bits: trained_weights.Bits, near: float
) -> None:
    model = RefragModel.for_training(layered_folder)
    table = model.decoder.get_input_embeddings().weight
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, _ in model.named_parameters()} - set(trained) == {
        "decoder.model.embed_tokens.weight"
    }
    assert all(parameter.dtype == torch.float32 for parameter in trained.values())
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    for parameter in trained.values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    learnt = {name: parameter.detach().clone() for name, parameter in trained.items()}
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path / "trained", bits=bits)
    assert torch.equal(state, torch.get_rng_state())  # saving does not change what training draws
    again = RefragModel.for_training(tmp_path / "trained")
    assert torch.equal(again.decoder.get_input_embeddings().weight, table)
    for name, parameter in again.named_parameters():
        if name in learnt and parameter.ndim > 1:
            missed = (parameter - learnt[name]).norm() / (learnt[name] - before[name]).norm()
            assert missed < near * 4, name
        elif name in learnt:
            assert torch.equal(parameter, learnt[name])
    loaded = RefragModel.from_pretrained(tmp_path / "trained", device="cpu")
    assert loaded.fingerprint == again.fingerprint
    assert loaded.fingerprint != RefragModel.from_pretrained(layered_folder).fingerprint


def test_saving_twice_gives_the_same_files(layered_folder: Path, tmp_path: Path) -> None:
    model = RefragModel.for_training(layered_folder)
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
    for part in PARTS:
        one, two = (file_of(tmp_path / name, part).read_bytes() for name in ("one", "two"))
        assert one == two


def test_files_are_split_and_read_together(
    layered_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_weights, "_LARGEST", 12_000)
    model = RefragModel.for_training(layered_folder)
    model.save_pretrained(tmp_path / "split")
    files = sorted((tmp_path / "split").glob("*-of-*.safetensors"))
    assert files[0].name == "decoder-00001-of-00002.safetensors"
    assert all(path.stat().st_size < 13_000 for path in files)
    split = RefragModel.from_pretrained(tmp_path / "split", device="cpu")
    model.save_pretrained(tmp_path / "whole")
    whole = RefragModel.from_pretrained(tmp_path / "whole", device="cpu")
    assert torch.equal(compressed(split), compressed(whole))
    files[1].unlink()
    with pytest.raises(UnknownModelError, match=r"decoder-00002-of-00002\S* is missing"):
        RefragModel.from_pretrained(tmp_path / "split", device="cpu")


def test_files_of_two_savings_are_not_mixed(copied: Path) -> None:
    shutil.copy(file_of(copied, "decoder"), copied / "decoder-00001-of-00002.safetensors")
    with pytest.raises(UnknownModelError, match="two versions of the decoder's weights"):
        RefragModel.from_pretrained(copied)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_missing_or_damaged_file_is_named_before_bases_are_fetched(
    copied: Path, part: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RefragModel, "_assemble", lambda *_: pytest.fail("base weights were loaded")
    )
    path = file_of(copied, part)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    for load in (RefragModel.from_pretrained, RefragModel.for_training):
        with pytest.raises(UnknownModelError, match=re.escape(f"{path} is missing or damaged")):
            load(copied)


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("decoder", "model.layers.1.mlp.up_proj.weight:codes", "is missing from the checkpoint"),
        ("encoder", "place:scales", "is missing from the checkpoint"),
        ("projector", "8.gain", "is missing from the checkpoint"),
    ],
)
def test_a_missing_tensor_is_named(copied: Path, part: str, name: str, message: str) -> None:
    tensors = load_file(file_of(copied, part))
    del tensors[name]
    save_file(tensors, file_of(copied, part))
    with pytest.raises(UnknownModelError, match=f"weights of the {part}: {name} {message}"):
        RefragModel.from_pretrained(copied)


def test_other_encoder_weights_have_another_fingerprint(
    copied: Path, layered_model: RefragModel
) -> None:
    tensors = load_file(file_of(copied, "encoder"))
    tensors["mix:unit"] *= 1.5
    save_file(tensors, file_of(copied, "encoder"))
    other = RefragModel.from_pretrained(copied, device="cpu")
    assert other.fingerprint != layered_model.fingerprint


def test_weights_that_were_replaced_are_not_saved_as_loaded(copied: Path, tmp_path: Path) -> None:
    model = RefragModel.from_pretrained(copied, device="cpu")
    file_of(copied, "encoder").unlink()
    with pytest.raises(UnknownModelError, match="removed or replaced after the model was loaded"):
        model.save_pretrained(tmp_path / "again")


def test_a_decoder_without_so_many_layers_is_refused(tiny_base: tuple[Path, Path]) -> None:
    decoder, encoder = map(str, tiny_base)
    config = RefragConfig(decoder=decoder, encoder=encoder, encoder_layers=3, token_mlp=0)
    with pytest.raises(UnknownModelError, match="has 2 layers; encoder_layers=3 is more"):
        RefragModel.from_base(config)


@pytest.mark.parametrize(
    "decoder",
    [tiny_decoder_config(tie_word_embeddings=False), tiny_decoder_config(GPT2Config, n_inner=64)],
    ids=["untied llama", "gpt2"],
)
def test_other_decoders_are_saved_whole_except_the_token_table(
    decoder: PretrainedConfig, tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    base = save_tiny_decoder(tmp_path / "base", decoder)
    config = layered_config(base, tiny_base[1], chunk_size=8, max_chunk_size=8, rungs=())
    RefragModel.from_base(config).save_pretrained(tmp_path / "start")
    model = RefragModel.for_training(tmp_path / "start")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "trained", bits=8)
    again = RefragModel.from_pretrained(tmp_path / "trained", device="cpu")
    learnt = dict(model.named_parameters())
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter, learnt[name], atol=5e-3, rtol=0)
    rows = [len(load_file(path)) for path in sorted((tmp_path / "trained").glob("decoder-*"))]
    matrices = [p for p in model.decoder.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.decoder.parameters() if p.requires_grad and p.ndim < 2]
    assert sum(rows) == 3 * len(matrices) + len(others)


def test_stored_vectors_make_the_embeddings_that_fresh_ones_make(
    layered_model: RefragModel,
) -> None:
    (fresh,) = layered_model.encode_passages(TEXT[:1])
    stored = type(fresh).from_bytes(fresh.to_bytes("float16"))
    layouts = [
        [Layout((text_segment(layered_model, "So"), PassageSegment(v, v.chunk_lengths > 9)))]
        for v in (fresh, stored)
    ]
    one, other = (logits(layered_model, layout) for layout in layouts)
    assert torch.equal(one, other)


def test_without_a_network_for_its_vectors_late_interaction_chooses(
    layered_model: RefragModel,
) -> None:
    assert make_policy(DEFAULT_POLICY, layered_model).name == "late-interaction"
    passages = layered_model.encode_passages(TEXT)
    (question,) = layered_model.encode_questions([TEXT[2]])
    scores = make_policy(DEFAULT_POLICY, layered_model).scores(PolicyInputs(passages, question))
    first = sum(passage.n_chunks for passage in passages[:2])
    assert first <= int(scores.argmax()) < first + passages[2].n_chunks
    with pytest.raises(UnknownPolicyError, match="carries no trained policy 'learned-query'"):
        make_policy("learned-query", layered_model)


def test_a_network_for_vectors_of_another_width_is_refused(copied: Path) -> None:
    rarity = torch.zeros(400)
    network = PolicyNetwork(24, rarity, sees_question=True)  # as wide as the search encoder
    save_networks({"learned-query": network}, copied / POLICY_FILE)
    with pytest.raises(UnknownModelError, match="belongs to another encoder"):
        RefragModel.from_pretrained(copied, device="cpu")
    fitting = PolicyNetwork(32, rarity, sees_question=True)
    save_networks({"learned-query": fitting}, copied / POLICY_FILE)
    model = RefragModel.from_pretrained(copied, device="cpu")
    assert make_policy(DEFAULT_POLICY, model).name == "learned-query"
