from __future__ import annotations

import numpy as np
import pytest

from refrag_components.corpus import TokenisedCorpus, prepare_corpus
from refrag_components.evaluation.continuation.comparison import measure_contexts
from refrag_components.evaluation.continuation.recovery import measure_recovery
from refrag_components.evaluation.continuation.shuffling import shuffle_paragraphs
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    Drop,
    FewerPassages,
    Keep,
    LastTokens,
    Method,
    default_methods,
)
from refrag_components.exceptions import EmptyInputError, EvaluationError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def corpus(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    folder = tmp_path_factory.mktemp("corpus") / "valid"
    prepare_corpus(["\n\n".join(TEXT)] * 16, tiny_model.tokenizer, folder)
    return TokenisedCorpus.load(folder)


def test_every_method_is_measured_on_the_same_windows(
    either_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    methods = default_methods(fractions=(0.25,), running_text=True)
    options = {"chunk_size": 4, "context_tokens": 256, "output_tokens": 32, "max_windows": 4}
    done: list[int] = []
    table = measure_contexts(
        either_model, corpus, methods, progress=lambda _, n, total: done.append(n), **options
    )
    rows = {row["method"]: row for row in table["rows"]}
    assert sum(done) == 4 * len(methods)
    assert table["windows"] == 4
    assert (rows["none"]["recovery"], rows["full"]["recovery"]) == (0.0, 1.0)
    assert rows["compressed"]["positions"] == rows["last-0"]["positions"] == 64
    assert rows["similarity-0.25"]["positions"] == rows["last-0.25"]["positions"] == 64 + 16 * 3
    known = measure_recovery(either_model, corpus, fractions=(0.0,), **options)
    assert rows["none"]["log_ppl"] == pytest.approx(known["none"], abs=1e-4)
    assert rows["full"]["log_ppl"] == pytest.approx(known["full"], abs=1e-4)
    (compressed,) = known["compressed"]
    for name in ("log_ppl", "recovery", "recall_log_ppl", "recall_recovery"):
        assert rows["compressed"][name] == pytest.approx(compressed[name], abs=1e-4)
    assert (rows["none"]["recall_recovery"], rows["full"]["recall_recovery"]) == (0.0, 1.0)
    pairs = {(pair["a"], pair["b"]) for pair in table["pairs"]}
    assert ("compressed", "last-0") in pairs
    assert ("random-0.25", "similarity-0.25") in pairs


@pytest.mark.parametrize("rung", [8, 16])
def test_every_rung_is_measured(
    layered_model: RefragModel, corpus: TokenisedCorpus, rung: int
) -> None:
    methods = default_methods(fractions=(0.25,), running_text=True)
    table = measure_contexts(
        layered_model,
        corpus,
        methods,
        chunk_size=rung,
        context_tokens=256,
        output_tokens=16,
        max_windows=2,
    )
    rows = {row["method"]: row for row in table["rows"]}
    units = 256 // rung
    assert rows["compressed"]["positions"] == units
    assert rows["similarity-0.25"]["positions"] == units + units // 4 * (rung - 1)
    assert all(np.isfinite(row["log_ppl"]) for row in table["rows"])


def test_short_last_chunks_stay_compressed(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    methods = [NONE, FULL, COMPRESSED, Keep("random", 1.0)]
    options = {"context_tokens": 256, "output_tokens": 16, "max_windows": 2}
    table = measure_contexts(tiny_model, corpus, methods, chunk_size=3, **options)
    rows = {row["method"]: row for row in table["rows"]}
    assert rows["compressed"]["positions"] == 86  # 85 of three tokens and one of one
    assert rows["random-1"]["positions"] == 256
    assert rows["random-1"]["log_ppl"] == pytest.approx(rows["full"]["log_ppl"], abs=0.5)


def test_the_last_tokens_alone_are_shown(tiny_model: RefragModel, corpus: TokenisedCorpus) -> None:
    """As many as compression would take; the outputs and the spans to recall stay the same."""
    methods = [NONE, FULL, COMPRESSED, LastTokens(1.0)]
    options = {"context_tokens": 256, "output_tokens": 16, "max_windows": 3}
    table = measure_contexts(tiny_model, corpus, methods, chunk_size=4, **options)
    rows = {row["method"]: row for row in table["rows"]}
    assert rows["last-1"]["positions"] == 256
    for name in ("log_ppl", "recall_log_ppl"):
        assert rows["last-1"][name] == pytest.approx(rows["full"][name], abs=1e-4)


def test_shuffling_keeps_the_outputs_and_the_paragraphs(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    starts = np.array([400, 700])
    shuffled, again = shuffle_paragraphs(
        corpus, starts, tiny_model, context_tokens=256, output_tokens=16
    )
    assert again.tolist() == [256, 528]
    for old, new in zip(starts, again, strict=True):
        output = corpus.tokens[old : old + 16]
        assert shuffled.tokens[new : new + 16].tolist() == output.tolist()
        context = tiny_model.tokenizer.decode(shuffled.tokens[new - 256 : new])
        before = tiny_model.tokenizer.decode(corpus.tokens[old - 256 : old])
        assert context != before
        assert any(text in context for text in TEXT)


def test_shuffled_contexts_are_measured(tiny_model: RefragModel, corpus: TokenisedCorpus) -> None:
    table = measure_contexts(
        tiny_model,
        corpus,
        [NONE, FULL, COMPRESSED, LastTokens()],
        chunk_size=4,
        context_tokens=256,
        output_tokens=32,
        shuffled=True,
        max_windows=3,
    )
    assert table["order"] == "paragraphs shuffled"
    assert all(np.isfinite(row["log_ppl"]) for row in table["rows"])


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([NONE, FULL], {}, "against compressed"),
        ([NONE, FULL, COMPRESSED, FewerPassages()], {}, "'fewer'; choose from none, full"),
        ([NONE, FULL, COMPRESSED, Drop("random", 0.1)], {}, "compressed, last, keep"),
        ([NONE, FULL, COMPRESSED], {"context_tokens": 300}, "multiple of 256"),
        ([NONE, FULL, COMPRESSED], {"chunk_size": 64}, "chunks of 1 to"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny_model: RefragModel,
    corpus: TokenisedCorpus,
    methods: list[Method],
    options: dict[str, int],
    message: str,
) -> None:
    with pytest.raises(EvaluationError, match=message):
        measure_contexts(tiny_model, corpus, methods, **{"chunk_size": 4, **options})


def test_too_little_text_is_refused(tiny_model: RefragModel, corpus: TokenisedCorpus) -> None:
    with pytest.raises(EmptyInputError, match="one window needs"):
        measure_contexts(
            tiny_model, corpus, [NONE, FULL, COMPRESSED], chunk_size=4, context_tokens=25600
        )
