"""Log probabilities as OpenAI writes them, for chats and for prompts that are continued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refrag_components.engines.base import TokenLogprob

__all__ = ["read_logprobs", "utf8", "written_for_chat", "written_for_prompt"]


def written_for_chat(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """What a chat completion has under "logprobs"."""
    content = [
        {
            **_entry(told.token, told.logprob),
            "top_logprobs": [_entry(token, logprob) for token, logprob in told.top],
        }
        for told in logprobs
    ]
    return {"content": content}


def written_for_prompt(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """What a completion of a prompt has under "logprobs".

    Args:
        logprobs: Of the tokens.
        offset: Where the first of them begins, in characters of the answer.
    """
    offsets = []
    for told in logprobs:
        offsets.append(offset)
        offset += len(told.token)
    return {
        "tokens": [told.token for told in logprobs],
        "token_logprobs": [told.logprob for told in logprobs],
        "top_logprobs": [dict(told.top) for told in logprobs],
        "text_offset": offsets,
    }


def read_logprobs(written: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """The log probabilities that either of the above, or nothing, is."""
    if written is None:
        return ()
    if "tokens" in written:
        columns = (written[name] for name in ("tokens", "token_logprobs", "top_logprobs"))
        return tuple(
            TokenLogprob(token, logprob, tuple(top.items()))
            for token, logprob, top in zip(*columns, strict=True)
        )
    return tuple(_read(written["content"]))


def utf8(token: str) -> list[int] | None:
    """The bytes of a token; None if it is not a whole character."""
    return None if "\ufffd" in token else list(token.encode())


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": utf8(token)}


def _read(content: Sequence[Mapping[str, Any]]) -> Iterator[TokenLogprob]:
    for told in content:
        top = tuple((each["token"], each["logprob"]) for each in told["top_logprobs"])
        yield TokenLogprob(told["token"], told["logprob"], top)
