from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus import (
    ClozeForm,
    TokenisedCorpus,
    WindowSpec,
    cut_windows,
    prepare_corpus,
)
from refrag_components.evaluation.continuation.recovery import (
    measure_recovery,
    recovery_interval,
    token_losses,
    window_losses,
)
from refrag_components.exceptions import EmptyInputError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def prepared(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "valid"
    prepare_corpus([" ".join(TEXT)] * 16, tiny_model, folder)
    return folder


def test_everything_expanded_recovers_everything(tiny_model: RefragModel, prepared: Path) -> None:
    result = measure_recovery(
        tiny_model,
        TokenisedCorpus.load(prepared),
        chunk_size=4,
        context_tokens=256,
        output_tokens=32,
        fractions=(0.0, 1.0),
    )
    compressed, expanded = result["compressed"]
    assert expanded["recovery"] == pytest.approx(1.0, abs=1e-4)
    assert (compressed["rate"], expanded["rate"]) == (4.0, 1.0)
    assert compressed["interval"][0] <= compressed["recovery"] <= compressed["interval"][1]
    assert result["windows"] == len(TokenisedCorpus.load(prepared)) // 288


def test_the_outputs_are_the_same_whatever_the_context(
    tiny_model: RefragModel, prepared: Path
) -> None:
    """Windows start at their first output token: no context must mean the same labels."""
    corpus = TokenisedCorpus.load(prepared)
    starts = np.array([300, 400])
    spec = {"chunk_size": 4, "passage_tokens": 64, "output_tokens": 16}
    none = window_losses(tiny_model, corpus, WindowSpec(passages=0, **spec), starts)
    lone = window_losses(tiny_model, corpus, WindowSpec(passages=0, **spec), starts[1:])
    np.testing.assert_allclose(none[1:], lone, rtol=1e-5)
    full = window_losses(tiny_model, corpus, WindowSpec(passages=2, expanded=1.0, **spec), starts)
    assert full.shape == none.shape == (2,)
    assert not np.allclose(full, none)


def test_what_is_recalled_counts_without_the_first_tokens_of_its_spans(
    tiny_model: RefragModel, prepared: Path
) -> None:
    corpus = TokenisedCorpus.load(prepared)
    spec = WindowSpec(
        chunk_size=4, passages=1, passage_tokens=64, output_tokens=16, recalled=8, expanded=1.0
    )
    batch = cut_windows(
        corpus,
        np.array([300]),
        spec,
        encoder=tiny_model.encoder,
        separator=tiny_model.first_token_id,
        rng=np.random.default_rng([0, 4]),
    )
    losses = token_losses(tiny_model, batch)
    assert np.isnan(losses).tolist() == [([True] * 2 + [False] * 6) * 2]
    (mean,) = window_losses(tiny_model, corpus, spec, np.array([364]))
    assert mean == pytest.approx(np.nanmean(losses), rel=1e-5)


@pytest.mark.parametrize("expanded", [0.0, 1.0])
def test_answers_alone_count_in_questions_about_a_window(
    tiny_model: RefragModel, prepared: Path, expanded: float
) -> None:
    corpus = TokenisedCorpus.load(prepared)
    form = ClozeForm.of(tiny_model.tokenizer)
    spec = WindowSpec(
        chunk_size=4,
        passages=2,
        passage_tokens=40,
        output_tokens=120,
        expanded=expanded,
        cloze=True,
    )
    starts = np.array([300, 330, 400])
    batch = cut_windows(
        corpus,
        starts - 80,
        spec,
        encoder=tiny_model.encoder,
        separator=tiny_model.first_token_id,
        rng=np.random.default_rng([0, 4]),
        form=form,
    )
    losses = token_losses(tiny_model, batch)
    assert batch.answer_index is not None
    assert np.flatnonzero(~np.isnan(losses)).tolist() == batch.answer_index.tolist()
    means = window_losses(tiny_model, corpus, spec, starts, form=form)
    np.testing.assert_allclose(means, np.nanmean(losses, axis=1), rtol=1e-5)
    others = window_losses(tiny_model, corpus, spec, starts, form=form, seed=1)
    assert not np.allclose(means, others)


def test_the_interval_narrows_with_more_windows() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        none, noise = 3 + rng.normal(0, 0.3, n), rng.normal(0, 0.2, n)
        low, high = recovery_interval(none, none - 0.5 + noise, none - 1)
        assert low < 0.5 < high
        return high - low

    assert width(1000) < width(50) / 2


def test_too_little_text_is_refused(tiny_model: RefragModel, prepared: Path) -> None:
    with pytest.raises(EmptyInputError, match="one window needs"):
        measure_recovery(
            tiny_model, TokenisedCorpus.load(prepared), chunk_size=4, context_tokens=25600
        )
