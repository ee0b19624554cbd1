"""Answers that are JSON of a given schema: a grammar restricts what the decoder may write next.

llguidance was chosen among the libraries that do this because it has no dependencies, reads a
``tokenizer.json`` as it is, and works without a network and without compiling kernels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LogitsProcessor

from refrag_components.cached import cached_property
from refrag_components.checking import parse_json
from refrag_components.exceptions import StructuredOutputError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from tokenizers import Tokenizer
    from torch import Tensor

__all__ = ["WHITE_SPACE", "AnswerSchema", "JsonGrammars", "check_complete"]

#: White space only where ``json.dumps`` writes it: decoders know this form best, and a decoder that
#: may write white space without end sometimes does. Options of llguidance.
WHITE_SPACE: Any = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
_OPEN = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})


@dataclass(frozen=True)
class AnswerSchema:
    """The JSON that an answer has to be.

    Attributes:
        text: The JSON schema, as JSON.
        prefix: The beginning of the JSON, if the prompt already ends with it.
    """

    text: str
    prefix: str = ""

    @classmethod
    def of(cls, schema: Mapping[str, Any], *, prefix: str = "") -> AnswerSchema:
        """Checks a schema.

        An object schema that does not mention additional properties forbids them here, although
        JSON schema allows any: a small decoder would write them until its tokens are used up.

        Args:
            schema: The JSON schema.
            prefix: As the attribute.

        Raises:
            StructuredOutputError: If it is not a valid schema, nothing fits it, or it has a
                constraint that cannot be enforced.
        """
        from llguidance import LLMatcher

        text = json.dumps(schema)
        closed = schema if '"allOf"' in text else _closed(schema)
        checked = cls(json.dumps(closed), prefix)
        if error := LLMatcher.validate_grammar(checked.grammar):
            msg = (
                f"an answer cannot be made to fit this JSON schema: {error}; change the schema, or "
                "ask for JSON in the prompt"
            )
            raise StructuredOutputError(msg)
        return checked

    @property
    def grammar(self) -> str:
        """The schema in llguidance's format."""
        from llguidance import LLMatcher

        return LLMatcher.grammar_from_json_schema(self.text, overrides=WHITE_SPACE)


class JsonGrammars:
    """Makes the logits processors that enforce schemas, for one decoder.

    Args:
        tokenizer: The decoder's fast tokenizer.
        end_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        self._json = tokenizer
        self._end_ids = sorted(end_ids)

    def processor(self, schema: AnswerSchema) -> LogitsProcessor:
        """Allows only tokens that continue JSON of a schema, and end tokens once it is complete.

        The processor has state: use it for one answer, and call it once for each of its tokens.

        Raises:
            StructuredOutputError: If the prefix does not fit the schema; raised by the first call
                of the processor.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, schema.grammar, log_level=0)
        matcher.consume_tokens(self._tokenizer.tokenize_str(schema.prefix))
        return _SchemaProcessor(matcher)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:  # takes a second for large vocabularies
        from llguidance import LLTokenizer

        return LLTokenizer(self._json.to_str(), eos_token=self._end_ids or None)


def check_complete(text: str, finish_reason: str | None) -> None:
    """Refuses an incomplete JSON answer.

    Args:
        text: The answer, including the prefix from the prompt.
        finish_reason: Why it ended, as in ``EngineOutput``.

    Raises:
        StructuredOutputError: If it was cut off before its JSON was complete.
    """
    if finish_reason != "length":
        return
    try:
        parse_json(text)
    except ValueError as error:
        msg = (
            f"the answer was cut off before its JSON was complete (after {len(text)} characters); "
            "raise max_tokens, or ask for less, such as shorter strings (maxLength)"
        )
        raise StructuredOutputError(msg) from error


class _SchemaProcessor(LogitsProcessor):
    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._started:
            self._matcher.consume_token(int(input_ids[0, -1]))
        self._started = True
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        # All errors show here: a matcher never leaves its error state.
        if self._matcher.is_error():
            msg = f"the answer cannot be made to fit its JSON schema: {self._matcher.get_error()}"
            raise StructuredOutputError(msg)
        width = scores.shape[-1]  # often larger than the tokenizer's vocabulary
        allowed = np.zeros(width, bool)
        known = np.unpackbits(bits, bitorder="little")[:width]
        allowed[: len(known)] = known
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)


def _closed(schema: Any, *, close: bool = True) -> Any:
    """The schema with its objects closed, unless it says what else they may contain.

    The branches of a combination do not know the properties next to it, so the branches of an
    object that also has properties itself stay open. (Schemas with allOf never come here.)
    """
    if not isinstance(schema, Mapping):
        return schema
    changed = dict(schema)
    has_properties = "properties" in schema
    for key in ("properties", "$defs", "definitions", "patternProperties"):
        if isinstance(named := schema.get(key), Mapping):
            changed[key] = {name: _closed(value) for name, value in named.items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            changed[key] = _closed(schema[key])
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(parts := schema.get(key), list):
            inner = key == "prefixItems" or not has_properties
            changed[key] = [_closed(part, close=inner) for part in parts]
    # Pydantic writes a union with a discriminator so; at most one of its members fits.
    if "discriminator" in changed and "oneOf" in changed and "anyOf" not in changed:
        changed["anyOf"] = changed.pop("oneOf")
    if close and has_properties and not (_COMBINING | _OPEN) & schema.keys():
        changed["additionalProperties"] = False
    return changed
