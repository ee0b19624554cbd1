from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.exceptions import ToolCallingError
from refrag_components.prompts.parts import ToolCall
from refrag_components.prompts.tool_calls import (
    BrokenToolCall,
    ToolCallParser,
    ToolCallStyle,
    tool_call_style,
)
from tests.tiny import BARE_TOOL_TEMPLATE, TOOL_TEMPLATE, tiny_decoder_tokenizer

Pieces = list[str | ToolCall | BrokenToolCall]


def parse(*pieces: str) -> Pieces:
    """What a parser that knows the tool "f" finds, neighbouring texts joined."""
    parser = ToolCallParser({"f"})
    found = [item for piece in pieces for item in parser.push(piece)] + parser.finish()
    joined: Pieces = []
    for item in found:
        if isinstance(item, str) and joined and isinstance(joined[-1], str):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


class TestStyle:
    def test_json_between_tags(self) -> None:
        style = tool_call_style(tiny_decoder_tokenizer(TOOL_TEMPLATE))
        assert style == ToolCallStyle("<tool_call>\n", "arguments")
        assert style.begin('f"') == '<tool_call>\n{"name": "f\\"", "arguments": '
        assert style.begin(None) == '<tool_call>\n{"name": "'

    def test_bare_json(self) -> None:
        style = tool_call_style(tiny_decoder_tokenizer(BARE_TOOL_TEMPLATE))
        assert style == ToolCallStyle("", "parameters")
        assert style.begin("f") == '{"name": "f", "parameters": '

    def test_named_templates(self) -> None:
        tokenizer = tiny_decoder_tokenizer()
        tokenizer.chat_template = {
            "default": tokenizer.chat_template,
            "tool_use": TOOL_TEMPLATE,
        }
        assert tool_call_style(tokenizer).arguments == "arguments"

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            (None, "no place for tools"),
            ("{% for message in messages %}{{ message.content }}{% endfor %}", "no place"),
            ("{{ tools }}{% for message in messages %}{{ message.content }}{% endfor %}", "form"),
            (TOOL_TEMPLATE.replace('{"name"', '{"function"'), "a form other than JSON"),
            ("{{ raise_exception('no tools') }}", "no tools"),
            ("{{ messages[0].content + 1 }}", "cannot lay out"),
        ],
    )
    def test_others_are_refused(self, template: str | None, reason: str) -> None:
        with pytest.raises(ToolCallingError, match=reason) as raised:
            tool_call_style(tiny_decoder_tokenizer(template))
        assert "use a checkpoint whose decoder calls tools" in str(raised.value)


class TestParser:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("", []),
            ("The harbour. ", ["The harbour. "]),
            (" \n", [" \n"]),
            ("1 < 2, <tool", ["1 < 2, <tool"]),
            ('{"name": "f", "arguments": {"a": 1}}', [ToolCall("f", {"a": 1})]),
            ('\n {"name": "f", "parameters": {"a": 1}} ', [ToolCall("f", {"a": 1})]),
            ('{"name": "f"}', [ToolCall("f", {})]),
            ('{"name": "f"}; more', [ToolCall("f", {}), "; more"]),
            ('{"name": "g"}', ['{"name": "g"}']),
            ('{"answer": 3}', ['{"answer": 3}']),
            ('{"name": "f", "argum', ['{"name": "f", "argum']),
            ('So: {"name": "f"}', ['So: {"name": "f"}']),
            ('<tool_call>{"name": "g"}</tool_call>', [ToolCall("g", {})]),
            ('<tool_call>\n{"name": "f", "arguments": {}}', [ToolCall("f", {})]),
            ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', [ToolCall("f", {"a": 1})]),
            (
                '<tool_call>{"name": "f", "arguments": {"a": "1\n2"}}',
                [ToolCall("f", {"a": "1\n2"})],
            ),
            (
                'Look: \n<tool_call>\n{"name": "f"}\n</tool_call>\n<tool_call>{"name": "g"}'
                "</tool_call>\nSo <b>that</b>.",
                ["Look:", ToolCall("f", {}), ToolCall("g", {}), "So <b>that</b>."],
            ),
        ],
    )
    def test_answers(self, answer: str, expected: Pieces) -> None:
        assert parse(answer) == expected
        assert parse(*answer) == expected

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            ('{"name": "f", "arg', None),
            ("", None),
            ("[]", None),
            ('{"name": 3}', None),
            ('{"arguments": {}}', None),
            ('{"name": "f", "arguments": [1]}', "f"),
            ('{"name": "f", "arguments": "x"}', "f"),
            ('{"name": "f"} and so on', None),
        ],
    )
    def test_broken_calls(self, body: str, name: str | None) -> None:
        (call,) = parse(f"<tool_call>{body}</tool_call>")
        assert isinstance(call, BrokenToolCall)
        assert (call.name, call.text) == (name, f"<tool_call>{body}")
        assert call.error

    @given(
        st.lists(
            st.sampled_from(
                ["<tool_call>", "</tool_call>", '{"name": "f"}', "{", '"', " ", "\n", "<", "a", "}"]
            ),
            max_size=12,
        ),
        st.integers(1, 20),
    )
    def test_pieces_do_not_matter(self, words: list[str], size: int) -> None:
        answer = "".join(words)
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        assert parse(*pieces) == parse(answer)

    @given(st.text(st.characters(codec="utf-8")))
    def test_no_text_is_lost(self, answer: str) -> None:
        if "<tool_call>" not in answer:
            assert parse(answer) == ([answer] if answer else [])

    @given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())))
    def test_arguments_come_back(self, arguments: dict[str, object]) -> None:
        call = ToolCall("f", arguments)
        assert parse(call.to_json()) == [call]
        tagged = f"<tool_call>\n{call.to_json()}\n</tool_call>"
        if tagged.count("</tool_call>") == 1:
            assert parse(tagged) == [call]
        assert json.loads(call.to_json()) == {"name": "f", "arguments": arguments}
