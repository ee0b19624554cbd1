"""Text to token ids without special tokens, the same way everywhere in the library."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["content_tokenizer", "encodable", "separator_id", "tokenizer_digest"]

_SURROGATES = re.compile("[\ud800-\udfff]")

_PROBE = (
    "The  Quick-brown fox's 1,234.5 km\n\n\tdef f(x): CamelCase_id "
    "naïve Straße 北京 ١٢ 🙂 <|im_end|>"
)


def content_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Returns a private copy of the fast tokenizer that never yields a special token.

    Text from users and retrieved passages may contain control tokens ("<|im_end|>"); this copy
    reads them as ordinary characters. It also neither truncates nor pads, and being a copy it is
    safe to use from several threads while the original serves chat templates.

    Raises:
        TypeError: If the tokenizer has no fast (Rust) backend, which offsets need.
    """
    if not getattr(tokenizer, "is_fast", False):
        msg = (
            f"{type(tokenizer).__name__} has no fast backend; load it with "
            "AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
        raise TypeError(msg)
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def encodable(text: str) -> str:
    """Replaces lone surrogates by U+FFFD, so that offsets into the text stay valid.

    Python strings may hold such half characters (from a broken PDF, a JSON escape, a file name);
    UTF-8, and therefore the Rust tokenizers and SQLite, cannot.
    """
    return _SURROGATES.sub("\ufffd", text)


def separator_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands between documents, and before what would otherwise come first.

    The document separator if the vocabulary has one, else BOS, else EOS.
    """
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    candidates = (separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(i) for i in candidates if isinstance(i, int)), 0)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Returns 16 bytes that change whenever the tokenizer would cut text differently.

    Computed from the vocabulary and from how a probe text is cut, not of the tokenizer's file,
    whose format differs between releases of the tokenizers library.
    """
    plain = content_tokenizer(tokenizer)
    digest = hashlib.blake2b(digest_size=16)
    for token, index in sorted(plain.get_vocab().items()):
        digest.update(f"{token}\0{index}\0".encode())
    digest.update(repr(plain.encode(_PROBE, add_special_tokens=False).ids).encode())
    return digest.digest()
