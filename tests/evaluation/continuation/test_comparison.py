from __future__ import annotations

import numpy as np
import pytest

from refrag_components.corpus import TokenisedCorpus, WindowSpec, cut_windows, prepare_corpus
from refrag_components.evaluation.continuation.comparison import expand_chunks, measure_contexts
from refrag_components.evaluation.continuation.recovery import measure_recovery
from refrag_components.evaluation.continuation.shuffling import shuffle_paragraphs
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    Drop,
    FewerPassages,
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
    prepare_corpus(["\n\n".join(TEXT)] * 16, tiny_model, folder)
    return TokenisedCorpus.load(folder)


def test_every_method_is_measured_on_the_same_windows(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    methods = default_methods(fractions=(0.25,), running_text=True)
    options = {"chunk_size": 4, "context_tokens": 256, "output_tokens": 32, "max_windows": 4}
    done: list[int] = []
    table = measure_contexts(
        tiny_model, corpus, methods, progress=lambda _, n, total: done.append(n), **options
    )
    rows = {row["method"]: row for row in table["rows"]}
    assert sum(done) == 4 * len(methods)
    assert table["windows"] == 4
    assert (rows["none"]["recovery"], rows["full"]["recovery"]) == (0.0, 1.0)
    assert rows["compressed"]["positions"] == rows["last-0"]["positions"] == 64
    assert rows["similarity-0.25"]["positions"] == rows["last-0.25"]["positions"] == 64 + 16 * 3
    known = measure_recovery(tiny_model, corpus, fractions=(0.0,), **options)
    assert rows["none"]["log_ppl"] == pytest.approx(known["none"], abs=1e-4)
    assert rows["full"]["log_ppl"] == pytest.approx(known["full"], abs=1e-4)
    assert rows["compressed"]["log_ppl"] == pytest.approx(
        known["compressed"][0]["log_ppl"], abs=1e-4
    )
    pairs = {(pair["a"], pair["b"]) for pair in table["pairs"]}
    assert ("compressed", "last-0") in pairs
    assert ("random-0.25", "similarity-0.25") in pairs


@pytest.mark.parametrize("chunk_size", [3, 4, 8])
def test_expanded_chunks_are_where_they_were(
    tiny_model: RefragModel, corpus: TokenisedCorpus, chunk_size: int
) -> None:
    spec = WindowSpec(chunk_size=chunk_size, passages=2, passage_tokens=32, output_tokens=8)
    starts = np.array([0, 100])
    cut = {
        "encoder": tiny_model.encoder,
        "separator": tiny_model.first_token_id,
        "rng": np.random.default_rng(0),
    }
    batch = cut_windows(corpus, starts, spec, **cut)
    n = len(batch.span_index) // 2
    whole = expand_chunks(batch, np.ones((2, n), dtype=bool))
    assert (whole.chunk_index == -1).all()
    full = cut_windows(
        corpus,
        starts,
        WindowSpec(
            chunk_size=chunk_size, passages=2, passage_tokens=32, output_tokens=8, expanded=1.0
        ),
        **cut,
    )
    assert whole.token_ids.tolist() == full.token_ids.tolist()
    chosen = np.zeros((2, n), dtype=bool)
    chosen[0, 1] = chosen[1, 0] = True
    part = expand_chunks(batch, chosen)
    assert part.token_ids.shape[1] == batch.token_ids.shape[1] + chunk_size - 1
    k = chunk_size
    assert part.token_ids[0, 2 : 2 + k].tolist() == full.token_ids[0, 1 + k : 1 + 2 * k].tolist()
    assert part.chunk_index[0, 1] == 0
    assert part.chunk_index[0, 2 + k] == 2
    assert part.chunk_index[1, 1 + k] == n + 1


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
    # The encoder reads the shuffled text too.
    decoded = tiny_model.encoder.tokenizer.decode(shuffled.pieces)
    assert "harbour" in decoded
    assert shuffled.covering.max() < len(shuffled.pieces)
    assert (np.diff(shuffled.covering) >= 0).all()


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
