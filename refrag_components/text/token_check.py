"""Whether token ids that were stored say what their passage says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.text.guarded import GuardedTokenizer
from refrag_components.text.tokenization import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenCheck"]

_SPACE = "\u2581"  # SentencePiece's mark
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class TokenCheck:
    """Compares stored token ids with the text that they are to stand for.

    Whoever can write a row of a store would otherwise decide what the decoder reads under an
    innocent text. Most tokenizers cut bytes, or characters with marks for spaces (SentencePiece's,
    which may put a space before a text): their tokens joined must give the text's own bytes, which
    takes microseconds. What does not agree so is tokenised again and must then be equal; so is
    everything under a tokenizer that changes text before it cuts it.

    Args:
        tokenizer: The decoder's fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._guarded = GuardedTokenizer(tokenizer, finds_control=False)
        described = json.loads(self._guarded.plain.to_str())
        self._bytes = _bytes_by_id(described)
        if self._bytes is not None:  # control tokens may be pieces of the vocabulary as well
            for number in tokenizer.all_special_ids:
                self._bytes.pop(number, None)
        self._puts_space = _marks_spaces(described)

    def differ(self, texts: Sequence[str], token_ids: Sequence[np.ndarray]) -> list[bool]:
        """Tells which passages have token ids that say something else.

        Args:
            texts: Passages.
            token_ids: Stored token ids of each, shape (n_tokens,).

        Returns:
            One entry per passage; True if its ids are not its own.
        """
        plain = list(map(encodable, texts))
        agree = [self._spells(text, ids) for text, ids in zip(plain, token_ids, strict=True)]
        unsure = [i for i, agrees in enumerate(agree) if not agrees]
        encoded = self._guarded.encode_content([plain[i] for i in unsure], offsets=False)
        for i, tokens in zip(unsure, encoded, strict=True):
            agree[i] = tokens.ids == token_ids[i].tolist()
        return [not agrees for agrees in agree]

    def _spells(self, text: str, ids: np.ndarray) -> bool:
        """Whether the bytes of the tokens are the text's; False if that cannot be told."""
        if self._bytes is None:
            return False
        try:
            spelled = b"".join(map(self._bytes.__getitem__, ids.tolist()))
        except KeyError:  # a control token, or none at all
            return False
        plain = text.encode()
        return spelled == plain or (self._puts_space and spelled == b" " + plain)


def _decoders(tokenizer: Any) -> list[Any]:
    """The steps of a tokenizer's decoder."""
    decoder = tokenizer.get("decoder") or {}
    return [decoder, *decoder.get("decoders", ())]


def _marks_spaces(tokenizer: Any) -> bool:
    """Whether a mark stands for each space, and perhaps for one before the text."""
    return any(
        step.get("type") == "Metaspace"
        or (step.get("type") == "Replace" and step.get("pattern") == {"String": _SPACE})
        for step in _decoders(tokenizer)
    )


def _bytes_by_id(tokenizer: Any) -> dict[int, bytes] | None:
    """The bytes of each token, control tokens left out; None if tokens are not bytes."""
    kinds = {step.get("type") for step in _decoders(tokenizer)}
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, list):  # Unigram's: pairs of a token and its logarithm
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    if not isinstance(vocabulary, dict):
        return None
    found = {}
    if "ByteLevel" in kinds:
        byte_of = {character: byte for byte, character in enumerate(_byte_level_alphabet())}
        for token, number in vocabulary.items():
            if all(character in byte_of for character in token):
                found[number] = bytes(byte_of[character] for character in token)
    elif _marks_spaces(tokenizer):
        for token, number in vocabulary.items():
            byte = _BYTE.fullmatch(token) if "ByteFallback" in kinds else None
            found[number] = bytes.fromhex(byte[1]) if byte else token.replace(_SPACE, " ").encode()
    else:
        return None
    for added in tokenizer.get("added_tokens", ()):  # they are written as they are
        found[added["id"]] = added["content"].encode()
        if added["special"]:
            del found[added["id"]]
    return found


def _byte_level_alphabet() -> str:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's), in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return "".join(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))
