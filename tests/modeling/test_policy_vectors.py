"""Chunk vectors that end with the search encoder's vector, which policies read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refrag_components.engines import SamplingParams
from refrag_components.excerpts import Excerpter
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.modeling.chunk_encoder import ChunkEncoder, load_encoder
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.policy_network import NETWORKS, POLICY_FILE, save_networks
from refrag_components.policies import PolicyInputs, make_policy
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.stores.sqlite import SQLiteStore
from refrag_components.vectors import CODECS, ChunkVectors, Codec, passage_key, unit_rows
from refrag_components.weights.loading import load_tokenizer
from tests.modeling.networks import network
from tests.tiny import TEXT, layered_config, tiny_config

LAYERS, SEARCH = 32, 24  # values per vector of each encoder
QUESTION = "Where is the harbour?"
READ_VECTORS = ("late-interaction", "similarity", *NETWORKS)


@pytest.fixture(scope="module")
def with_networks(matched_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RefragModel:
    """The checkpoint with policies for the search encoder's vectors."""
    folder = tmp_path_factory.mktemp("networks") / "matched"
    shutil.copytree(matched_folder, folder)
    save_networks({name: network(name) for name in NETWORKS}, folder / POLICY_FILE)
    return RefragModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> RefragModel:
    """A checkpoint of the search encoder alone, with the same k and the same policies."""
    folder = tmp_path_factory.mktemp("networks") / "plain"
    RefragModel.from_base(tiny_config(*tiny_base)).save_pretrained(folder)
    save_networks({name: network(name) for name in NETWORKS}, folder / POLICY_FILE)
    return RefragModel.from_pretrained(folder, device="cpu")


def inputs_of(model: RefragModel) -> PolicyInputs:
    texts = [*TEXT, "", TEXT[0]]
    return PolicyInputs(model.encode_passages(texts), *model.encode_questions([QUESTION]))


def changed(passage: ChunkVectors, part: slice) -> ChunkVectors:
    """Other chunk vectors in one part."""
    vectors = passage.vectors.copy()
    vectors[:, part] = np.random.default_rng(0).standard_normal(vectors[:, part].shape)
    return ChunkVectors(vectors, passage.token_ids, passage.chunk_size, passage.fingerprint)


def test_a_chunk_vector_is_both_encoders_vectors(
    matched_model: RefragModel, layered_model: RefragModel, tiny_base: tuple[Path, Path]
) -> None:
    assert (matched_model.vector_width, matched_model.policy_width) == (LAYERS + SEARCH, SEARCH)
    assert (layered_model.vector_width, layered_model.policy_width) == (LAYERS, LAYERS)
    search = ChunkEncoder(load_encoder(tiny_base[1]), load_tokenizer(tiny_base[1]))
    rows = search.encode(matched_model.chunker.chunk(TEXT))
    layers = layered_model.encode_passages(TEXT)
    for passage, first, last in zip(matched_model.encode_passages(TEXT), layers, rows, strict=True):
        assert passage.width == matched_model.vector_width
        np.testing.assert_array_equal(passage.vectors[:, :LAYERS], first.vectors)
        ends = passage.vectors[:, LAYERS:]
        np.testing.assert_allclose(unit_rows(ends), unit_rows(last), atol=1e-3)
        # Of one size, so that a codec's single scale per vector fits both.
        for part in (ends, passage.vectors[:, :LAYERS]):
            np.testing.assert_allclose(np.square(part).mean(axis=1), 1, atol=1e-2)
    (empty,) = matched_model.encode_passages([""])
    assert empty.vectors.shape == (0, matched_model.vector_width)


def test_what_the_decoder_reads_does_not_change(
    matched_model: RefragModel, layered_model: RefragModel
) -> None:
    for rung in layered_model.config.rungs:
        one, other = (
            model.chunk_embeddings(model.encode_passages(TEXT), rung)
            for model in (matched_model, layered_model)
        )
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", READ_VECTORS)
def test_policies_read_the_end_alone(name: str, with_networks: RefragModel) -> None:
    inputs = inputs_of(with_networks)
    policy = make_policy(name, with_networks)
    scores = policy.scores(inputs)
    first, last = (
        policy.scores(PolicyInputs([changed(p, part) for p in inputs.passages], inputs.question))
        for part in (slice(LAYERS), slice(LAYERS, None))
    )
    np.testing.assert_array_equal(first, scores)
    assert np.abs(last - scores).max() > 0.01


def test_what_policies_read_is_not_copied(with_networks: RefragModel) -> None:
    inputs = inputs_of(with_networks)
    single = [replace(passage, vectors=passage.vectors) for passage in inputs.passages]
    inputs = PolicyInputs(single, inputs.question)  # vectors in half precision are converted
    for rows, passage in zip(inputs.vectors, inputs.passages, strict=True):
        assert rows.base is passage.vectors


@pytest.mark.parametrize("name", READ_VECTORS)
def test_policies_of_the_search_encoder_score_as_they_do_alone(
    name: str, with_networks: RefragModel, plain: RefragModel
) -> None:
    here, there = (
        make_policy(name, model).scores(inputs_of(model)) for model in (with_networks, plain)
    )
    np.testing.assert_allclose(here, there, atol=0.02 * float(np.ptp(there)))
    np.testing.assert_array_equal(np.argsort(-here)[:5], np.argsort(-there)[:5])


def test_other_vectors_have_another_fingerprint(
    matched_folder: Path, matched_model: RefragModel, layered_model: RefragModel, tmp_path: Path
) -> None:
    assert matched_model.fingerprint != layered_model.fingerprint
    folder = tmp_path / "other"
    shutil.copytree(matched_folder, folder)
    (file,) = (folder / "encoder").glob("*.safetensors")
    tensors = {name: 1.5 * tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    other = RefragModel.from_pretrained(folder, device="cpu")
    assert other.fingerprint not in (matched_model.fingerprint, layered_model.fingerprint)


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_and_stores_keep_both_parts_alike(
    codec: Codec, matched_model: RefragModel, tmp_path: Path
) -> None:
    (passage,) = matched_model.encode_passages([" ".join(TEXT)])
    key = passage_key(" ".join(TEXT), matched_model.fingerprint)
    store = SQLiteStore(tmp_path / "store.sqlite", codec=codec)
    store.mset([(key, passage)])
    (stored,) = store.mget([key])
    assert stored == ChunkVectors.from_bytes(passage.to_bytes(codec))
    assert stored.fingerprint == matched_model.fingerprint
    missed = [
        np.linalg.norm((stored.vectors - passage.vectors)[:, part])
        / np.linalg.norm(passage.vectors[:, part])
        for part in (slice(LAYERS), slice(LAYERS, None))
    ]
    if codec in ("float32", "float16"):
        assert stored == passage
    else:
        assert max(missed) < 0.15
        assert 0.5 < missed[0] / missed[1] < 2


def test_saving_copies_the_flag_and_not_the_search_encoder(
    matched_model: RefragModel, matched_folder: Path, layered_folder: Path, tmp_path: Path
) -> None:
    matched_model.save_pretrained(tmp_path / "again")
    trained = RefragModel.for_training(matched_folder)
    trained.save_pretrained(tmp_path / "trained")
    for folder in (tmp_path / "again", tmp_path / "trained"):
        assert RefragConfig.from_folder(folder).policy_vectors
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in layered_folder.iterdir()}
    assert RefragModel.from_pretrained(tmp_path / "again").fingerprint == matched_model.fingerprint


def test_the_search_encoder_does_not_train(
    matched_folder: Path, tiny_base: tuple[Path, Path]
) -> None:
    started = RefragModel.from_base(layered_config(*tiny_base, policy_vectors=True))
    for model in (started, RefragModel.for_training(matched_folder)):
        assert model.matcher is not None
        assert not any(parameter.requires_grad for parameter in model.matcher.parameters())
        assert any(parameter.requires_grad for parameter in model.encoder.parameters())
        before = model.search_vectors(TEXT)
        assert model.train().encoder.training
        np.testing.assert_array_equal(model.search_vectors(TEXT), before)


def test_search_vectors_are_what_they_were(
    matched_model: RefragModel, layered_model: RefragModel
) -> None:
    one, other = (model.search_vectors(TEXT) for model in (matched_model, layered_model))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", READ_VECTORS)
def test_answers_from_fresh_and_stored_vectors_are_equal(
    policy: str, with_networks: RefragModel
) -> None:
    generator = RefragGenerator(with_networks, policy=policy)
    parts = (*map(PassagePart, TEXT), TextPart(f"\n{QUESTION}"))
    params = SamplingParams(max_tokens=8)
    fresh, stored = (generator.generate([Request(parts, QUESTION)], params)[0] for _ in range(2))
    assert stored.text == fresh.text
    assert (fresh.report.cache_hits, stored.report.cache_hits) == (0, len(TEXT))
    assert 0 < fresh.report.expanded < fresh.report.chunks


def test_excerpts_are_those_of_the_search_encoder(
    with_networks: RefragModel, plain: RefragModel
) -> None:
    here, there = (Excerpter(model) for model in (with_networks, plain))
    one, other = (each.extract(QUESTION, TEXT) for each in (here, there))
    assert any(excerpt.text for excerpt in one)
    assert [excerpt.text for excerpt in one] == [excerpt.text for excerpt in other]
