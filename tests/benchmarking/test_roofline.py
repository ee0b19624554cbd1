from __future__ import annotations

import numpy as np
import pytest
import torch

from refrag_components.benchmarking.roofline import Rates, Work, measure_rates
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_rows
from refrag_components.modeling import RefragModel


def test_rates_are_measured() -> None:
    rates = measure_rates(torch.device("cpu"), torch.float32, repeats=1)
    assert rates.matrix > 0
    assert rates.bandwidth > 0


@pytest.fixture
def work(tiny_subject: ShapeSubject) -> Work:
    return Work(tiny_subject.at(4))


def test_keys_and_values_are_counted_as_the_cache_holds_them(tiny_model: RefragModel) -> None:
    ids = np.arange(10)
    batch = DecoderBatch(tiny_model, embed_rows(tiny_model, [ids], [np.full(10, -1)], None))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in batch._cache.layers)
    assert 10 * Work(tiny_model).kv_bytes == held


def test_matrix_products_bound_long_prompts(work: Work, tiny_subject: ShapeSubject) -> None:
    """By hand: 2 operations per weight and position, 4 d n^2 / 2 of attention per layer."""
    layer = 2 * 32**2 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    weights = 2 * layer + 32
    expected = 2 * (100 * weights + 512 * 32) + 2 * 2 * 32 * 100**2
    assert work.first_token(Rates(1.0, 1e30), 100) == pytest.approx(expected)


def test_reading_the_weights_bounds_short_prompts_and_further_tokens(work: Work) -> None:
    rates = Rates(matrix=1e30, bandwidth=1.0)
    weights = work.first_token(rates, 1)
    assert weights == work.first_token(rates, 100)
    assert work.token(rates, 100) == weights + 100 * work.kv_bytes


def test_what_policies_read_is_encoded_too(
    layered_model: RefragModel, matched_model: RefragModel
) -> None:
    rates = Rates(1.0, 1e30)
    plain, matched = (
        Work(model).first_token(rates, 50, encoded=100) for model in (layered_model, matched_model)
    )
    assert matched_model.matcher is not None
    bert = matched_model.matcher.model
    weights = sum(p.numel() for p in bert.parameters()) - bert.get_input_embeddings().weight.numel()
    assert matched == pytest.approx(plain + 2 * 100 * weights)


def test_projecting_and_encoding_come_on_top(work: Work) -> None:
    rates = Rates(1.0, 1e30)
    bare = work.first_token(rates, 50)
    projected = work.first_token(rates, 50, embeddings=40)
    assert bare < projected < work.first_token(rates, 50, embeddings=40, encoded=400)
