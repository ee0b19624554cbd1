from __future__ import annotations

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.records import make_records, making
from tests.tiny import TEXT


@pytest.mark.parametrize("token_vectors", [False, True])
def test_records_have_the_vectors_of_their_texts(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch, token_vectors: bool
) -> None:
    monkeypatch.setattr(making, "_AT_ONCE", 2)
    texts = [f" {text}\n" for text in TEXT]
    about = [{"page": number} for number in range(5)]
    made = list(make_records(tiny_model, texts, about, token_vectors=token_vectors))
    assert [record.text for record in made] == texts
    assert [record.metadata for record in made] == about
    chunks = tiny_model.encode_passages(TEXT)
    vectors, tokens = tiny_model.search_token_vectors(TEXT)
    for i, record in enumerate(made):
        assert record.chunk_vectors == chunks[i]
        np.testing.assert_allclose(record.vector, vectors[i], atol=1e-5)
        if token_vectors:
            np.testing.assert_allclose(record.token_vectors, tokens[i], atol=1e-5)
        else:
            assert record.token_vectors is None


def test_each_text_needs_its_metadata(tiny_model: RefragModel) -> None:
    with pytest.raises(ValueError, match="metadata"):
        list(make_records(tiny_model, TEXT, [{}]))
