from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus import TokenisedCorpus, WindowSpec, prepare_corpus
from refrag_components.corpus.windows import RECALL_SPAN
from refrag_components.evaluation.continuation.recovery import (
    cut_evenly,
    measure_recovery,
    quick_recovery,
    quick_text_loss,
    recovery_interval,
    token_losses,
    window_losses,
)
from refrag_components.exceptions import EmptyInputError, EvaluationError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def prepared(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "valid"
    prepare_corpus([" ".join(TEXT)] * 16, tiny_model.tokenizer, folder)
    return folder


@pytest.mark.parametrize("rung", [4, 16])
def test_everything_expanded_recovers_everything(
    layered_model: RefragModel, tiny_model: RefragModel, prepared: Path, rung: int
) -> None:
    result = measure_recovery(
        layered_model if rung == 16 else tiny_model,
        TokenisedCorpus.load(prepared),
        chunk_size=rung,
        context_tokens=256,
        output_tokens=32,
        fractions=(0.0, 1.0),
    )
    compressed, expanded = result["compressed"]
    assert expanded["recovery"] == pytest.approx(1.0, abs=1e-4)
    assert expanded["recall_recovery"] == pytest.approx(1.0, abs=1e-4)
    assert expanded["recall_log_ppl"] == pytest.approx(result["recall_full"], abs=1e-4)
    assert (compressed["rate"], expanded["rate"]) == (rung, 1.0)
    assert compressed["interval"][0] <= compressed["recovery"] <= compressed["interval"][1]
    assert result["windows"] == len(TokenisedCorpus.load(prepared)) // 288


def test_the_outputs_are_the_same_whatever_the_context(
    tiny_model: RefragModel, prepared: Path
) -> None:
    """Windows start at their first output token: no context must mean the same labels."""
    corpus = TokenisedCorpus.load(prepared)
    starts = np.array([300, 400])
    spec = {"passages": 2, "passage_tokens": 64, "output_tokens": 16}
    none = window_losses(tiny_model, corpus, WindowSpec(**spec, shown=False), starts, 4)
    lone = window_losses(tiny_model, corpus, WindowSpec(**spec, shown=False), starts[1:], 4)
    np.testing.assert_allclose(none[1:, 0], lone[:, 0], rtol=1e-5)
    full = window_losses(tiny_model, corpus, WindowSpec(**spec, expanded=1.0), starts, 4)
    assert full.shape == none.shape == (2, 2)
    assert np.isnan(full[:, 1]).all()  # nothing is recalled
    assert not np.allclose(full[:, 0], none[:, 0])


def test_recalled_spans_are_measured_apart(tiny_model: RefragModel, prepared: Path) -> None:
    corpus = TokenisedCorpus.load(prepared)
    spec = WindowSpec(passages=1, passage_tokens=128, output_tokens=16, recalled=2, expanded=1.0)
    starts = np.array([300, 500])
    losses = token_losses(tiny_model, cut_evenly(tiny_model, corpus, starts, spec, 4))
    assert losses.shape == (2, 16 + 2 * RECALL_SPAN)
    means = window_losses(tiny_model, corpus, spec, starts, 4)
    np.testing.assert_allclose(means[:, 0], losses[:, :16].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(means[:, 1], losses[:, 16:].mean(axis=1), rtol=1e-5)
    again = cut_evenly(tiny_model, corpus, starts, spec, 4, seed=1)
    assert again.labels.tolist() != cut_evenly(tiny_model, corpus, starts, spec, 4).labels.tolist()


def test_a_training_log_has_every_rung(layered_model: RefragModel, prepared: Path) -> None:
    corpus = TokenisedCorpus.load(prepared)
    found = quick_recovery(layered_model, corpus, windows=2)
    for rung in layered_model.config.rungs:
        assert np.isfinite([found[f"k{rung}_recovery"], found[f"k{rung}_recall_recovery"]]).all()
    assert quick_text_loss(layered_model, corpus, windows=2)["full"] == pytest.approx(
        found["full"], abs=1e-4
    )
    assert not layered_model.training


def test_a_rung_that_the_checkpoint_lacks_is_refused(
    layered_model: RefragModel, prepared: Path
) -> None:
    with pytest.raises(EvaluationError, match=r"has the rungs \(4, 8, 16\), got a chunk size of 6"):
        measure_recovery(
            layered_model, TokenisedCorpus.load(prepared), chunk_size=6, context_tokens=256
        )


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
