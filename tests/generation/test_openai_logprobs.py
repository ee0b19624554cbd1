from __future__ import annotations

from refrag_components.engines import TokenLogprob
from refrag_components.generation.openai_logprobs import (
    read_logprobs,
    utf8,
    written_for_chat,
    written_for_prompt,
)

TOLD = (
    TokenLogprob(" the", -0.5, ((" the", -0.5), (" a", -1.5))),
    TokenLogprob("\ufffd", -2.0, ((" the", -0.25), ("\ufffd", -2.0))),
)


def test_what_is_written_can_be_read() -> None:
    assert read_logprobs(written_for_chat(TOLD)) == TOLD
    assert read_logprobs(written_for_prompt(TOLD, 0)) == TOLD
    assert read_logprobs(None) == ()


def test_offsets_go_on_where_the_last_part_ended() -> None:
    assert written_for_prompt(TOLD, 7)["text_offset"] == [7, 11]


def test_half_a_character_has_no_bytes() -> None:
    assert utf8("\ufffd") is None
    assert utf8("é") == [0xC3, 0xA9]
    assert [each["bytes"] for each in written_for_chat(TOLD)["content"]] == [[*b" the"], None]
