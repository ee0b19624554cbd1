from __future__ import annotations

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.text.chunking import QUESTION_PART


def test_a_batch_encodes_each_different_question_once_and_like_a_single_one(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Where is the harbour?", " ", "When was it dug, and by whom?", "Where is the harbour?"]
    alone = [tiny_model.encode_questions([text])[0] for text in texts]
    sizes: list[int] = []
    encode = tiny_model.encoder.encode
    monkeypatch.setattr(
        tiny_model.encoder, "encode", lambda cut, **kw: sizes.append(len(cut)) or encode(cut, **kw)
    )
    together = tiny_model.encode_questions(texts)
    assert sizes == [3]
    assert [question.text for question in together] == texts
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)
    assert tiny_model.encode_questions([]) == []


def test_a_blank_question_has_no_vectors_and_no_direction(tiny_model: RefragModel) -> None:
    blank, question = tiny_model.encode_questions([" \n", "Where is the harbour?"])
    assert blank.vectors.shape == (0, tiny_model.encoder.width)
    assert not blank.centre.any()
    assert len(question.vectors) == -(-len(question.token_ids) // QUESTION_PART)
    np.testing.assert_allclose(question.centre, question.vectors.mean(axis=0))
    assert (question.blanked.text, len(question.blanked.token_ids)) == ("", 0)
    assert question.blanked.vectors.shape == blank.vectors.shape


def test_every_part_needs_one_vector() -> None:
    with pytest.raises(ValueError, match="3 question tokens need 2 vectors"):
        EncodedQuestion("?", np.zeros(3, int), np.zeros((3, 4), np.float32))
