from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.contexts import Setting, draw_contexts
from refrag_components.evaluation.answers.pool import PassagePool, read_pool
from refrag_components.exceptions import EvaluationError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT

TEXTS = [*TEXT, *(f"Ship number {i} was built in {1850 + i}." for i in range(60))]


@pytest.fixture(scope="module")
def pool(tiny_model: RefragModel) -> PassagePool:
    return PassagePool(tiny_model, TEXTS)


def test_given_passages_are_the_right_ones_and_distractors(
    pool: PassagePool, ask: Callable[..., Question]
) -> None:
    questions = [ask(i) for i in range(8)]
    (contexts,) = draw_contexts(questions, [Setting("given", 4)], pool)
    for question, context in zip(questions, contexts, strict=True):
        assert {*question.needed, *question.others} < {*context.passages}
        assert len(set(context.passages)) == 4
        assert sorted(context.similar) == [0, 1, 2, 3]
    indices = {context.passages.index(TEXT[0]) for context in contexts}
    assert len(indices) > 1  # shuffled
    assert draw_contexts(questions[2:3], [Setting("given", 4)], pool) == [contexts[2:3]]


def test_strong_retrieval_takes_the_best_and_weak_a_part_of_the_50_best(
    pool: PassagePool, ask: Callable[..., Question]
) -> None:
    question = ask(text=TEXTS[20])
    ranked = pool.search(pool.embed_questions([question.text]), 50)[0]
    assert ranked[0] == question.text
    ((strong,),) = draw_contexts([question], [Setting("strong", 3)], pool)
    assert list(strong.passages) == ranked[:3]
    assert strong.similar == (0, 1, 2)
    ((diverse,),) = draw_contexts([question], [Setting("diverse", 3)], pool)
    assert diverse.passages[0] == ranked[0]
    assert len({*diverse.passages}) == 3
    ((weak,),) = draw_contexts([question], [Setting("weak", 10)], pool)
    assert len({*weak.passages}) == 10
    assert {*weak.passages} <= {*ranked}
    assert list(weak.passages) != ranked[:10]


def test_the_pool_is_searched_once_for_all_numbers_of_passages(
    tiny_model: RefragModel, ask: Callable[..., Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = PassagePool(tiny_model, TEXTS)
    searched: list[int] = []
    embedded: list[str] = []
    search, embed = pool.search, pool.embed_questions
    monkeypatch.setattr(pool, "search", lambda *a: searched.append(1) or search(*a))
    monkeypatch.setattr(pool, "embed_questions", lambda t: embedded.extend(t) or embed(t))
    questions = [ask(i, text=f"Which ship was built in {1850 + i}?") for i in range(3)]
    settings = [Setting("strong", count) for count in (5, 10, 20, 40)] + [Setting("weak", 5)]
    drawn = draw_contexts(questions, settings, pool)
    assert (len(searched), len(embedded)) == (1, 3)
    for few, many in pairwise(drawn[:4]):
        for one, other in zip(few, many, strict=True):
            assert other.passages[: len(one.passages)] == one.passages
    for setting, contexts in zip(settings, drawn, strict=True):
        assert [contexts] == draw_contexts(questions, [setting], pool)
        assert all(len({*context.passages}) == setting.passages for context in contexts)


def test_questions_that_need_their_passage_are_left_out_of_retrieval(
    pool: PassagePool, ask: Callable[..., Question]
) -> None:
    questions = [ask(0), ask(1, standalone=False)]
    strong, given = draw_contexts(questions, [Setting("strong", 2), Setting("given", 2)], pool)
    assert len(strong) == 1
    assert len(given) == 2
    with pytest.raises(EvaluationError, match="use given passages"):
        draw_contexts(questions[1:], [Setting("weak", 2)], pool)


def test_a_small_pool_gives_fewer_passages(
    tiny_model: RefragModel, ask: Callable[..., Question]
) -> None:
    pool = PassagePool(tiny_model, TEXT[:2])
    ((context,),) = draw_contexts([ask(0)], [Setting("given", 5)], pool)
    assert sorted(context.passages) == sorted(TEXT[:2])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(EvaluationError, match="given, strong, weak"):
        Setting("psychic", 5)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="1 to 50"):
        Setting("weak", 51)
    with pytest.raises(EvaluationError, match="got 0"):
        Setting("given", 0)


def test_search_vectors_are_cached(tiny_model: RefragModel, tmp_path: Path) -> None:
    done: list[int] = []
    first = PassagePool(tiny_model, TEXTS, cache=tmp_path, progress=done.append)
    again = PassagePool(tiny_model, TEXTS, cache=tmp_path, progress=done.append)
    assert sum(done) == len(TEXTS)  # embedded once
    np.testing.assert_allclose(again.vectors, first.vectors, atol=1e-3)
    (cached,) = tmp_path.iterdir()
    cached.write_bytes(cached.read_bytes()[:100])  # cut short: embedded again
    PassagePool(tiny_model, TEXTS, cache=tmp_path, progress=done.append)
    assert sum(done) == 2 * len(TEXTS)


def test_a_pool_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a", "b", "a", " ")))
    assert read_pool(path) == ["a", "b"]
    path.write_text('{"txt": "a"}\n')
    with pytest.raises(EvaluationError, match='"text"'):
        read_pool(path)


@pytest.mark.parametrize(("place", "where"), [("start", 0), ("middle", 4), ("end", 9)])
def test_the_passage_that_answers_stands_where_it_is_asked_for(
    pool: PassagePool, ask: Callable[..., Question], place: str, where: int
) -> None:
    (contexts,) = draw_contexts([ask(i) for i in range(3)], [Setting("given", 10, place)], pool)  # type: ignore[arg-type]
    assert [context.passages.index(TEXT[0]) for context in contexts] == [where] * 3
    (anywhere,) = draw_contexts([ask(i) for i in range(3)], [Setting("given", 10)], pool)
    for context, other in zip(contexts, anywhere, strict=True):
        assert {*context.passages} == {*other.passages}


def test_only_given_passages_can_be_placed() -> None:
    with pytest.raises(EvaluationError, match="only among given"):
        Setting("strong", 5, "start")
    with pytest.raises(EvaluationError, match="one of start, middle, end"):
        Setting("given", 5, "top")  # type: ignore[arg-type]
