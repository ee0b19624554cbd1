from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from refrag_components.exceptions import EmptyInputError, RefragError
from refrag_components.prompts.parts import (
    ControlPart,
    Message,
    PassagePart,
    RenderedPart,
    TextPart,
    ToolCall,
)
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from tests.tiny import TOOL_TEMPLATE, tiny_decoder_tokenizer

_STRIPPING = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n\n' "
    "+ message['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
_STRICT = (  # no system role, user and assistant in turn, as Gemma and Llama 2
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_FORGETFUL = (
    "{% for message in messages if message['role'] != 'system' %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
)
_SYSTEM_INSIDE = (  # the system message moves into the last user turn, as Mistral
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|im_start|>' + message['role'] }}"
    "{% if loop.last and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{% endfor %}"
)


def _with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = tiny_decoder_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def _sentencepiece_like(template: str) -> PreTrainedTokenizerFast:
    """As Llama 2: words carry their leading space, special tokens are part of the vocabulary."""
    letters = [chr(c) for c in range(33, 127)]
    words = ["<unk>", "<s>", "</s>", "▁", *letters, "▁a", "▁I", "▁t"]
    merges = [("▁", "a"), ("▁", "I"), ("▁", "t")]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def _message(role: str, *parts: str | PassagePart) -> Message:
    return Message(role, tuple(TextPart(p) if isinstance(p, str) else p for p in parts))


def _text(parts: list[RenderedPart]) -> str:
    return "".join(part.text for part in parts)


_CONVERSATIONS = {
    "one": [("user", "When was the harbour dug?")],
    "system": [("system", "Answer briefly."), ("user", "What fell in 2020?")],
    "turns": [
        ("user", "Where is it?"),
        ("assistant", "North of the old town."),
        ("user", "  And when?\n\nTell  me. \n"),
    ],
    "empty": [("user", "")],
    "space": [("user", " \n ")],
    "unicode": [("user", "naïve 北京 🙂")],
}


@pytest.mark.parametrize("conversation", _CONVERSATIONS)
@pytest.mark.parametrize("template", [None, _STRIPPING, _SYSTEM_INSIDE])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_token_ids_are_those_of_the_chat_template(
    conversation: str, template: str | None, add_generation_prompt: bool
) -> None:
    tokenizer = tiny_decoder_tokenizer() if template is None else _with_template(template)
    turns = _CONVERSATIONS[conversation]
    parts = render(
        [_message(role, text) for role, text in turns],
        tokenizer,
        add_generation_prompt=add_generation_prompt,
    )
    expected: Any = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        add_generation_prompt=add_generation_prompt,
        return_dict=False,
    )
    assert PromptTokenizer(tokenizer).encode(parts).tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["I tried it at ten", " at it ", "I", "naïve?"])
def test_token_ids_where_words_carry_their_leading_space(text: str) -> None:
    tokenizer = _sentencepiece_like(_STRICT)
    turns = [("user", text), ("assistant", "a tent"), ("user", text)]
    parts = render([_message(role, own) for role, own in turns], tokenizer)
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": own} for role, own in turns], return_dict=False
    )
    assert PromptTokenizer(tokenizer).encode(parts).tolist() == expected  # type: ignore[arg-type]


def test_passages_keep_their_place_among_text() -> None:
    passage, store = "Rain fell for three days.", object()
    parts = render(
        [
            _message("system", "Use this: ", PassagePart(passage, store)),  # type: ignore[arg-type]
            _message("user", PassagePart("  one "), PassagePart("two"), "\n\nWhat fell? "),
        ],
        tiny_decoder_tokenizer(),
    )
    assert parts == [
        ControlPart("<|im_start|>system\n"),
        TextPart("Use this: "),
        PassagePart(passage),
        ControlPart("<|im_end|>\n<|im_start|>user\n"),
        PassagePart("  one "),
        PassagePart("two"),
        TextPart("\n\nWhat fell?"),
        ControlPart(" <|im_end|>\n<|im_start|>assistant\n"),
    ]
    assert isinstance(parts[2], PassagePart)
    assert parts[2].store is store


def test_a_template_that_refuses_the_roles_gets_them_folded() -> None:
    tokenizer = _with_template(_STRICT)
    parts = render(
        [
            _message("system", "Be brief."),
            _message("user", "Read ", PassagePart("the passage")),
            _message("tool", "42"),
            _message("assistant", "Yes."),
            _message("user", "Well?"),
        ],
        tokenizer,
    )
    start, end = tokenizer.bos_token, tokenizer.eos_token
    assert _text(parts) == (
        f"{start}[INST] Be brief.\n\nRead the passage\n\n42 [/INST] Yes.{end}[INST] Well? [/INST]"
    )
    assert PassagePart("the passage") in parts


def test_a_template_that_forgets_a_message_gets_it_folded() -> None:
    parts = render([_message("system", "S"), _message("user", "U")], _with_template(_FORGETFUL))
    assert _text(parts) == "user: S\n\nU\n"


def test_a_template_that_cannot_be_pleased_is_named() -> None:
    tokenizer = _with_template("{{ raise_exception('never') }}")
    with pytest.raises(RefragError, match=r"'user'.*never"):
        render([_message("user", "U")], tokenizer)


def test_no_template() -> None:
    parts = render([_message("user", "Why?", PassagePart("P"))], _with_template(None))
    assert _text(parts) == "user: Why?P\nassistant:"
    assert not any(isinstance(part, ControlPart) for part in parts)
    silent = render([_message("user", "Why?")], _with_template(None), add_generation_prompt=False)
    assert _text(silent) == "user: Why?\n"


def test_no_messages() -> None:
    with pytest.raises(EmptyInputError):
        render([], tiny_decoder_tokenizer())


class TestTools:
    call = ToolCall("search", {"words": 'the "old" town', "limit": 3})
    tools: ClassVar = [{"type": "function", "function": {"name": "search", "description": "Any."}}]

    def conversation(self, call: ToolCall) -> list[Message]:
        return [
            _message("user", "Where?"),
            Message("assistant", (TextPart("I look."),), (call,)),
            Message("tool", (PassagePart("In the north."),), tool="search"),
        ]

    def test_are_laid_out_by_the_template(self) -> None:
        tokenizer = tiny_decoder_tokenizer(TOOL_TEMPLATE)
        parts = render(self.conversation(self.call), tokenizer, tools=self.tools)
        arguments = r'{"words": "the \"old\" town", "limit": 3}'
        assert _text(parts) == (
            "<|im_start|>system\nTools:\n"
            '{"type": "function", "function": {"name": "search", "description": "Any."}}'
            "<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
            "<|im_start|>assistant\nI look.<tool_call>\n"
            f'{{"name": "search", "arguments": {arguments}}}\n</tool_call><|im_end|>\n'
            "<|im_start|>tool\nIn the north.<|im_end|>\n<|im_start|>assistant\n"
        )
        assert PassagePart("In the north.") in parts

    @pytest.mark.parametrize(
        "template",
        [
            None,
            tiny_decoder_tokenizer().chat_template,
            _STRICT,
            # as DeepSeek: expects arguments to be a string
            TOOL_TEMPLATE.replace("(call.function.arguments | tojson)", "call.function.arguments"),
        ],
    )
    def test_calls_that_a_template_cannot_write_are_text(self, template: str | None) -> None:
        parts = render(self.conversation(self.call), _with_template(template))
        assert f"I look.\n{self.call.to_json()}" in _text(parts)
        assert PassagePart("In the north.") in parts

    @given(
        st.lists(
            st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im_", "end|>", '"', "\\", "a", "\n"]),
            max_size=6,
        ).map("".join)
    )
    def test_nothing_in_them_yields_control_tokens(self, hostile: str) -> None:
        tokenizer = tiny_decoder_tokenizer(TOOL_TEMPLATE)
        call = ToolCall(hostile, {hostile: [hostile, {"x": hostile}]})
        function = {"name": f"f{hostile}", "description": hostile, "parameters": {hostile: hostile}}
        tools = [{"type": "function", "function": function}]
        parts = render(self.conversation(call), tokenizer, tools=tools)
        ids = PromptTokenizer(tokenizer).encode(
            [TextPart(p.text) if isinstance(p, PassagePart) else p for p in parts]
        )
        start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        assert (ids.tolist().count(start), ids.tolist().count(end)) == (5, 4)
        calls = json.loads(_text(parts).split("<tool_call>\n")[1].split("\n</tool_call>")[0])
        assert calls == {"name": hostile, "arguments": call.arguments}
