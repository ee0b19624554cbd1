"""Tokens as the model counts them that will read an excerpt."""

from __future__ import annotations

from collections.abc import Sequence

from refrag_components.exceptions import MissingExtraError
from refrag_components.text.splitting import CountTokens

__all__ = ["tiktoken_counter"]


def tiktoken_counter(name: str) -> CountTokens:
    """Counts tokens of a model behind OpenAI's interface.

    tiktoken downloads an encoding's file when it is first used.

    Args:
        name: A model such as "gpt-4o", or an encoding such as "o200k_base".

    Raises:
        MissingExtraError: If tiktoken is not installed.
        ValueError: If tiktoken knows no such model or encoding.
    """
    try:
        import tiktoken
    except ImportError as error:
        msg = 'counting tokens for a model by name needs pip install "refrag-components[tiktoken]"'
        raise MissingExtraError(msg) from error
    if name in tiktoken.list_encoding_names():
        encoding = tiktoken.get_encoding(name)
    else:
        try:
            encoding = tiktoken.encoding_for_model(name)
        except KeyError as error:
            known = ", ".join(tiktoken.list_encoding_names())
            msg = f"tiktoken knows no model or encoding {name!r}; encodings are {known}"
            raise ValueError(msg) from error

    def count(texts: list[str]) -> Sequence[int]:
        return [len(ids) for ids in encoding.encode_ordinary_batch(texts)]

    return count
