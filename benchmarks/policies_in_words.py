"""Policies by a chat model next to the others: what they show, what it costs.

    python benchmarks/policies_in_words.py QUESTIONS... --items 12 --out in_words.md

Passages and prompts are those of `refrag eval qa`, with the rest compressed. The chat model is the
checkpoint's own decoder, reading text; "a model that knows" is a script that names the parts in
which the answer stands, the most that any model could do. Sets are pooled; brackets hold 95%
bootstrap intervals. Tokens are those that the chat model reads and writes per request, ms the work
of all cores.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from refrag_components.corpus.question_files import load_questions
from refrag_components.engines.sampling import SamplingParams
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.prompts import PromptBuilder
from refrag_components.evaluation.answers.squad import score
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.rows import Prompt
from refrag_components.evaluation.statistics import interval, resample
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    ComparisonPolicy,
    FractionBudget,
    NaturalLanguagePolicy,
    Policy,
    make_policy,
)
from refrag_components.prompts.parts import Message, TextPart
from refrag_components.prompts.rendering import render

FRACTION = 0.1


class Reader:
    """A chat model that counts what it costs.

    Args:
        model: Its decoder answers, and its tokens are counted.
        reply: Prompt to reply, instead of the decoder.
    """

    def __init__(self, model: RefragModel, reply: Callable[[str], str] | None = None) -> None:
        self._generator = RefragGenerator(model)
        self._reply = reply
        self.tokens = self.calls = 0
        self.says = ""

    def __call__(self, prompt: str) -> str:
        """The reply."""
        tokenizer = self._generator.model.tokenizer
        if self._reply is not None:
            self.says = self._reply(prompt)
        else:
            parts = render([Message("user", (TextPart(prompt),))], tokenizer)
            request = Request(parts, "Which parts?")
            (answer,) = self._generator.generate([request], SamplingParams(max_tokens=16))
            self.says = answer.text
        self.tokens += len(tokenizer.encode(prompt)) + len(tokenizer.encode(self.says))
        self.calls += 1
        return self.says


def knowing(contexts: Sequence[Context]) -> Callable[[str], str]:
    """Names the parts in which an answer stands."""
    answers = {each.question.text: each.question.answers for each in contexts}

    def reply(prompt: str) -> str:
        question = re.findall(r"^Question: (.*)$", prompt, flags=re.MULTILINE)[-1]
        parts = re.findall(r"^\[(\d+)\] (.*)$", prompt, flags=re.MULTILINE)
        held = [a.lower() for a in answers[question]]
        named = [n for n, text in parts if any(answer in text.lower() for answer in held)]
        return ", ".join(named) or "0"

    return reply


def main() -> None:
    """Measures every policy on the same questions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--items", type=int, default=12, help="questions per set")
    parser.add_argument("--comparisons", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = RefragModel.from_pretrained(options.model, device=options.device)
    contexts: list[Context] = []
    for path in options.questions:
        questions = [q for q in load_questions(path, items=options.items) if q.answers]
        pool = PassagePool(model, [])
        pool.add([text for q in questions for text in (*q.needed, *q.others)])
        (drawn,) = draw_contexts(questions, [Setting("given", 5)], pool)
        contexts += [replace(c, question=replace(c.question, text=_line(c))) for c in drawn]
    builder = PromptBuilder(EncodedPassages(model), max_new_tokens=32)
    built = builder.build(contexts)
    own, script = Reader(model), Reader(model, knowing(contexts))
    pairs = {"comparisons": options.comparisons}
    policies: dict[str, tuple[Policy, Reader | None]] = {
        "random": (make_policy("random", model), None),
        "late-interaction": (make_policy("late-interaction", model), None),
        "auto": (make_policy("auto", model), None),
        "natural-language, own decoder": (NaturalLanguagePolicy(own).of(model), own),
        "natural-language, a model that knows": (NaturalLanguagePolicy(script).of(model), script),
        "pairwise, own decoder": (ComparisonPolicy(own, **pairs).of(model), own),
        "pairwise, a model that knows": (ComparisonPolicy(script, **pairs).of(model), script),
        "listwise of 6, own decoder": (ComparisonPolicy(own, window=6, **pairs).of(model), own),
    }
    body = []
    for name, (policy, reader) in policies.items():
        body.append([name, *measured(model, contexts, built.prompts, built.chunks, policy, reader)])
        print(body[-1], "" if reader is None else repr(reader.says), flush=True)
    head = ["policy", "F1", "log-ppl", "answer shown", "calls", "tokens", "ms"]
    lines = markdown_table(head, body)
    about = f"{len(contexts)} questions, 5 passages, p={FRACTION:g}.\n\n"
    options.out.write_text(about + "\n".join(lines) + "\n", encoding="utf-8")


def _line(context: Context) -> str:
    return " ".join(context.question.text.split())


def measured(
    model: RefragModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    chunks: object,
    policy: Policy,
    reader: Reader | None,
) -> list[str]:
    """The cells of a policy's row."""
    policy.scores(prompts[0].inputs)
    if reader is not None:
        reader.tokens = reader.calls = 0
    rows, shown = [], []
    started = time.process_time()
    scores = [policy.scores(prompt.inputs) for prompt in prompts]
    ms = 1000 * (time.process_time() - started) / len(prompts)
    for context, prompt, own in zip(contexts, prompts, scores, strict=True):
        choice = replace(prompt, scores={"own": own}).chosen("own", FractionBudget(FRACTION))
        rows.append(prompt.laid_out(choice))
        texts = [model.tokenizer.decode(span).lower() for span in rows[-1].text_spans]
        shown.append(any(a.lower() in text for a in context.question.answers for text in texts))
    outputs = decode(model, chunks, rows, max_new_tokens=32)  # type: ignore[arg-type]
    f1 = [
        100
        * score(
            model.tokenizer.decode(output.token_ids),
            context.question.answers,
            by_word=context.question.kind == "yes/no",
        )[1]
        for output, context in zip(outputs, contexts, strict=True)
    ]
    costs = ["-", "-"]
    if reader is not None:
        costs = [f"{reader.calls / len(prompts):.1f}", f"{reader.tokens / len(prompts):,.0f}"]
    values = (f1, [output.log_ppl for output in outputs], 100 * np.array(shown))
    return [
        *(_cell(np.array(v), n) for v, n in zip(values, (1, 3, 0), strict=True)),
        *costs,
        f"{ms:.0f}",
    ]


def _cell(values: np.ndarray, digits: int) -> str:
    low, high = interval(resample([values[:, None].astype(float)])[:, 0])
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
