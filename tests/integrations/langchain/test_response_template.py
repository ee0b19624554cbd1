"""Answers of decoders whose tokenizer says how they are taken apart."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from langchain_refrag import ChatRefrag
from refrag_components.generation.response_template import ResponseReader
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.integrations.scripted import ScriptedEngine
from tests.tiny import tiny_decoder_tokenizer

pytestmark = pytest.mark.skipif(
    not hasattr(PreTrainedTokenizerBase, "get_response_parser"),
    reason="this release of transformers reads no answers by a template",
)

# Thoughts between tags, calls behind a special token and not in JSON.
TEMPLATE = {
    "start_anchor": "<|im_start|>assistant\n",
    "defaults": {"role": "assistant"},
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"<\|endoftext\|>(?P<name>\w+)\n",
            "close": "<end>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<(?P<key>\w+)>(?P<value>.*?)</(?P=key)>"},
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {},
    },
}
JSON_CALLS = {
    **TEMPLATE,
    "fields": {
        "tool_calls": {"open": "<call>", "close": "</call>", "repeats": True, "content": "json"},
        "content": {},
    },
}
ANSWER = (
    "<think>\nHow deep? </think>\n\n I measure. \n<|endoftext|>depth\n<metres>4</metres><end>"
    "<|endoftext|>search\n<words>4</words><end> Done.\n"
)


@tool
def depth(metres: int) -> int:
    """Converts a depth."""
    return metres


@tool
def search(words: str) -> str:
    """Searches the archive."""
    return words


@pytest.fixture
def chat(
    tool_folder: Path, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> ChatRefrag:
    tokenizer: Any = load_checkpoint(str(tool_folder), "cpu").model.tokenizer
    monkeypatch.setattr(tokenizer, "response_template", TEMPLATE, raising=False)
    monkeypatch.setattr(scripted, "_reply", lambda prompt: ANSWER)
    # The decoder writes the special token itself, not what it is spelled like.
    special = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    monkeypatch.setattr(scripted, "_tokenizer", special)
    return ChatRefrag(model=str(tool_folder), device="cpu", max_tokens=300)


def test_thoughts_text_and_calls(chat: ChatRefrag) -> None:
    model = chat.bind_tools([depth, search])
    for answer in (model.invoke("How deep?"), reduce(add, model.stream("How deep?"))):
        assert isinstance(answer, AIMessage)
        assert answer.text == "I measure.Done."
        assert answer.additional_kwargs["reasoning_content"] == "How deep?"
        assert answer.content_blocks[0]["type"] == "reasoning"
        # The tools' schemas give the arguments their types.
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
            ("depth", {"metres": 4}),
            ("search", {"words": "4"}),
        ]


def test_thoughts_are_taken_out_without_tools_too(chat: ChatRefrag) -> None:
    answer = chat.invoke("How deep?")
    assert answer.additional_kwargs["reasoning_content"] == "How deep?"
    assert "<think>" not in answer.text


def test_a_chosen_call_is_json_all_the_same(
    chat: ChatRefrag, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "_reply", lambda prompt: '{"metres": 4}}')
    answer = chat.bind_tools([depth], tool_choice="depth").invoke("How deep?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("depth", {"metres": 4})
    ]


def read(template: dict[str, Any], *pieces: str, prompt: str = "") -> list[Any]:
    tokenizer: Any = tiny_decoder_tokenizer()
    tokenizer.response_template = template
    reader = ResponseReader(tokenizer, prompt, [])
    found = [item for piece in pieces for item in reader.push(piece)]
    return [*found, *reader.finish()]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_join_to_the_same(size: int) -> None:
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    found = read(TEMPLATE, *pieces)
    assert "".join(piece for piece in found if isinstance(piece, str)) == "I measure.Done."
    assert [piece for piece in found if hasattr(piece, "name")] == [
        piece for piece in read(TEMPLATE, ANSWER) if hasattr(piece, "name")
    ]


def test_what_the_prompt_has_begun() -> None:
    prompt = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>"
    thought, text = read(TEMPLATE, "So.</think>Yes.", prompt=prompt)
    assert (thought.text, text) == ("So.", "Yes.")


@pytest.mark.parametrize("body", ['{"name": "f"', "[1]", "x"])
def test_broken_calls(body: str) -> None:
    text, broken, *rest = read(JSON_CALLS, f"Look: <call>{body}</call>")
    assert text == "Look:"
    assert broken.error
    assert body in broken.text
    assert rest == []


def test_text_after_a_broken_call_is_kept() -> None:
    found = read(JSON_CALLS, "<call>x</call> And <call>")
    assert found[-1] == " And <call>"
