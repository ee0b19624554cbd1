from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget, PositionBudget
from refrag_components.prompts.parts import Message, PassagePart, TextPart
from refrag_components.prompts.rendering import render
from tests.tiny import TEXT

QUESTION = "When was the harbour dug?"


def request(model: RefragModel, passages: list[str]) -> Request:
    parts = [part for text in passages for part in (PassagePart(text), TextPart("\n\n"))]
    message = Message("user", (TextPart("Read: "), *parts, TextPart(QUESTION)))
    return Request(render([message], model.tokenizer), QUESTION)


def test_nothing_is_lost_and_the_positions_add_up(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model, budget=FractionBudget(0.5))
    asked = request(tiny_model, TEXT[:3])
    prepared = generator.prepare(asked)
    view = generator.explain(prepared, QUESTION)
    parts = [part if isinstance(part, str) else part.text for part in view.parts]
    assert "".join(parts) == "".join(part.text for part in asked.parts)
    assert [passage.text for passage in view.passages] == TEXT[:3]
    assert sum(p.positions for p in view.passages) == prepared.report.context_positions
    assert sum(p.tokens for p in view.passages) == prepared.report.context_tokens
    assert view.question == QUESTION


def test_the_best_scores_expand(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(
        tiny_model, policy="similarity", rest="compress", budget=FractionBudget(0.25)
    )
    view = generator.explain(generator.prepare(request(tiny_model, TEXT[:3])))
    pieces = [piece for passage in view.passages for piece in passage.pieces]
    read = [piece.score for piece in pieces if piece.fate == "expanded" and piece.score is not None]
    left = [
        piece.score for piece in pieces if piece.fate == "compressed" and piece.score is not None
    ]
    assert len(read) + len(left) == len(pieces)
    assert min(read) >= max(left)


def test_without_a_choice_there_are_no_scores(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model, budget=FractionBudget(1.0))
    view = generator.explain(generator.prepare(request(tiny_model, TEXT[:2])))
    assert all(piece.score is None for passage in view.passages for piece in passage.pieces)


def test_what_is_dropped_is_shown_but_is_none_of_the_spans(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model, rest="drop")
    view = generator.explain(generator.prepare(request(tiny_model, TEXT[:3])))
    fates = {piece.fate for passage in view.passages for piece in passage.pieces}
    assert fates == {"expanded", "dropped"}
    assert [passage.text for passage in view.passages] == TEXT[:3]
    assert all(passage.rung == 0 for passage in view.passages)
    assert {mark for _, mark in view.spans} == {None, True}


def test_coarser_rungs_have_fewer_and_longer_pieces(layered_model: RefragModel) -> None:
    generator = RefragGenerator(layered_model, budget=PositionBudget(64), rest="compress")
    prepared = generator.prepare(request(layered_model, [*TEXT, *TEXT[::-1]]))
    view = generator.explain(prepared)
    rungs = {passage.rung for passage in view.passages}
    assert rungs == {segment.rung for segment in prepared.layout.passages}
    assert len(rungs) > 1
    for passage in view.passages:
        assert all(p.positions == 1 for p in passage.pieces if p.fate == "compressed")


def test_sources_belong_to_the_last_passages(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model)
    view = generator.explain(generator.prepare(request(tiny_model, TEXT[:3])))
    named = view.from_search([("a.md", 0.9), ("b.md", 0.5)])
    assert [passage.source for passage in named.passages] == ["", "a.md", "b.md"]
    assert [passage.score for passage in named.passages] == [None, 0.9, 0.5]
    assert named.spans == view.spans


def test_explaining_changes_no_answer(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model)
    asked = request(tiny_model, TEXT[:2])
    params = SamplingParams(max_tokens=4)
    (before,) = generator.generate([asked], params)
    generator.explain(generator.prepare(asked))
    (after,) = generator.generate([asked], params)
    assert before.text == after.text


def test_a_page_is_written(tiny_model: RefragModel, tmp_path: Path) -> None:
    generator = RefragGenerator(tiny_model)
    view = generator.explain(generator.prepare(request(tiny_model, TEXT[:2])))
    view.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == view.to_html()
    with pytest.raises(OSError):
        view.save(tmp_path / "nowhere" / "page.html")
