from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import NETWORKS
from refrag_components.policies import POLICIES
from refrag_components.prompts.parts import Message, PassagePart, TextPart
from refrag_components.prompts.rendering import render
from refrag_components.text.splitting import split_passages, token_counter
from refrag_components.text.tokenization import encodable
from refrag_components.vectors import passage_key

BROKEN = "The harbour \ud800 was dug\udfff in 1907, north of the old town."
WHOLE = BROKEN.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")


@given(st.text())
def test_what_is_encodable_stays_and_everything_becomes_so(text: str) -> None:
    result = encodable(text)
    assert len(result) == len(text)
    assert result.encode().decode() == result
    assert result == text or "\ufffd" in result


def test_whole_characters_outside_the_basic_plane_stay() -> None:
    assert encodable("a 🙂 b") == "a 🙂 b"


def test_lone_surrogates_in_passages(tiny_model: RefragModel) -> None:
    broken, whole = tiny_model.encode_passages([BROKEN, WHOLE])
    assert broken == whole
    (passage,) = tiny_model.chunker.chunk([BROKEN])
    assert passage.text == WHOLE
    count = token_counter(tiny_model.tokenizer)
    assert split_passages(BROKEN, count, 256) == [BROKEN]
    assert passage_key(BROKEN, "f00d") != passage_key(WHOLE, "f00d")


def test_lone_surrogates_in_search(tiny_model: RefragModel) -> None:
    np.testing.assert_array_equal(tiny_model.search_vector(BROKEN), tiny_model.search_vector(WHOLE))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in NETWORKS])
def test_lone_surrogates_anywhere_in_a_request(tiny_model: RefragModel, policy: str) -> None:
    generator = RefragGenerator(tiny_model, policy=policy, rest="compress")
    answers = []
    for text in (BROKEN, WHOLE):
        parts = (TextPart(text[:20]), PassagePart(text), TextPart(f"\n\nQuestion: {text}"))
        request = Request(render([Message("user", parts)], tiny_model.tokenizer), "\udc80?")
        spans = generator.explain(generator.prepare(request)).spans
        assert text in "".join(span for span, _ in spans)
        (answer,) = generator.generate([request], SamplingParams(max_tokens=4))
        answers.append(answer.text)
    assert answers[0] == answers[1]
