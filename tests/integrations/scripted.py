"""A decoder that follows its chat template: what a tiny random one cannot do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refrag_components.engines.base import Engine, EngineDelta, EngineOutput
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.sampling import SamplingParams, params_by_row
from refrag_components.engines.text_stream import TextStream
from refrag_components.modeling import RefragModel
from refrag_components.text.tokenization import content_tokenizer

_TURN, _END = "<|im_start|>", "<|im_end|>"
_TOOLS = f"{_TURN}system\nTools:\n"


class ScriptedEngine:
    """Reads the layout that it is given as text and answers what ``reply`` makes of it.

    Everything but the choice of tokens is real: template, tokens, layout, stop strings, stream.

    Args:
        model: Gives the tokenizer.
        reply: Prompt to answer; None leaves the prompt to the model's own engine.
        engine: That engine.
    """

    def __init__(
        self, model: RefragModel, reply: Callable[[str], str | None], engine: Engine
    ) -> None:
        self._tokenizer = content_tokenizer(model.tokenizer)
        self._reply = reply
        self._engine = engine
        self.prompts: list[str] = []

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        each = params_by_row(params, len(layouts))
        return [self._output(layout, own) for layout, own in zip(layouts, each, strict=True)]

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        reply = self._answer(layout)
        if reply is None:
            yield from self._engine.stream(layout, params)
            return
        ids = self._tokenizer.encode(reply, add_special_tokens=False).ids[: params.max_tokens]
        text = TextStream(
            self._tokenizer, params.stop, skip_special_tokens=params.skip_special_tokens
        )
        for token in ids:
            yield EngineDelta(text.push(token), (token,), None)
            if text.stopped:
                break
        yield EngineDelta(text.finish(), (0,), "stop")

    def _output(self, layout: Layout, params: SamplingParams) -> EngineOutput:
        deltas = list(self.stream(layout, params))
        reason = deltas[-1].finish_reason
        assert reason is not None
        return EngineOutput(
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            finish_reason=reason,
            time_to_first_token=0.0,
            prompt_positions=layout.n_positions,
        )

    def _answer(self, layout: Layout) -> str | None:
        ids = [
            token
            for segment in layout.segments
            for token in (
                segment.token_ids if isinstance(segment, TextSegment) else segment.vectors.token_ids
            )
        ]
        self.prompts.append(self._tokenizer.decode(ids, skip_special_tokens=False))
        return self._reply(self.prompts[-1])


def follow_tools(prompt: str) -> str | None:
    """Calls the first tool with arguments from the question, then says that it is done.

    A question that names several tools ("f, g") gets one call of each. A call that was begun is
    completed. A question for JSON gets a joke. All else is left to the model.
    """
    turns = prompt.split(_TURN)[1:]
    question = next((turn for turn in reversed(turns) if turn.startswith("user\n")), "")
    begun = turns[-1].removeprefix("assistant\n") if turns else ""
    if not prompt.startswith(_TOOLS):
        joke = {"setup": "Why?", "punchline": "Because."}
        return json.dumps(joke) if "JSON" in question else None
    schemas = [json.loads(line) for line in turns[0].split(_END)[0].splitlines()[2:]]
    tools = {schema["function"]["name"]: schema["function"] for schema in schemas}
    if not begun and turns[-2].startswith("tool\n"):
        return "That is what it says."
    forced = next((name for name in tools if f'"{name}"' in begun), None)
    named = [name for name in tools if re.search(rf"\b{name}\b", question)] or list(tools)[:1]
    calls = [
        "<tool_call>\n"
        + json.dumps(
            {"name": name, "arguments": _arguments(tools[name], question)}, ensure_ascii=False
        )
        + "\n</tool_call>"
        for name in ([forced] if forced else named[:1] if begun else named)
    ]
    return "\n".join(calls).removeprefix(begun)


def _arguments(tool: dict[str, Any], question: str) -> dict[str, Any]:
    properties = tool.get("parameters", {}).get("properties", {})
    return {name: _value(schema, question) for name, schema in properties.items()}


def _value(schema: dict[str, Any], question: str) -> Any:
    if schema.get("type") == "integer":
        number = re.search(r"\d+", question)
        return int(number[0]) if number else 1
    quoted = re.search(r"'([^']+)'", question)
    return quoted[1] if quoted else "Here."
