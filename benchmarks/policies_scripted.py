"""Policies by a chat model that errs so often, next to others: what they show, what they cost.

    python benchmarks/policies_scripted.py QUESTIONS... --out scripted.md

The chat model is a script. It judges of every part that it is shown whether an answer stands in it,
and is wrong in a given share of these judgements. `NaturalLanguagePolicy` is given the numbers of
the parts that it judges to hold one, `ComparisonPolicy` all numbers, those first. So nothing is
generated and no decoder reads anything; what such a policy gains from a real model lies between
the rows whose errors are as frequent as that model's.

Only questions whose answer occurs word for word in a passage count. Sets count the same; brackets
hold 95% bootstrap intervals over clusters of questions on one passage. Tokens are those that the
chat model reads and writes per request, of this decoder's tokenizer; ms are the processor time
of all cores, without a chat model but with the script, which counts tokens.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.policies import FRACTIONS, occurrences
from refrag_components.corpus.question_files import load_questions, set_name
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.statistics import (
    cluster_labels,
    interval,
    mean_of_sets,
    resample,
)
from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    ComparisonPolicy,
    FractionBudget,
    NaturalLanguagePolicy,
    Policy,
    PolicyInputs,
    make_policy,
    select,
)

ERRORS = (0.0, 0.1, 0.3)
PAIRS = (4, 8, 16, 32)  # comparisons of two parts
LISTS = (2, 4, 8)  # of six
WINDOW = 6


@dataclass(frozen=True)
class Asked:
    """A question as policies see it.

    Attributes:
        context: Its passages.
        inputs: Their chunk vectors.
        answers: The chunks of each place where an answer stands.
    """

    context: Context
    inputs: PolicyInputs
    answers: list[np.ndarray]


class Script:
    """A chat model that knows the answers, and errs.

    Args:
        model: Its tokens are counted.
        asked: What it will be asked.
        error: Share of its judgements that are wrong.
        all_numbers: Whether it names all parts, those that hold an answer first, or these alone.
    """

    def __init__(
        self, model: RefragModel, asked: Sequence[Asked], error: float, *, all_numbers: bool
    ) -> None:
        self._tokenizer = model.tokenizer
        self._answers = {
            own.context.question.text.strip(): [a.lower() for a in own.context.question.answers]
            for own in asked
        }
        self._error, self._all_numbers = error, all_numbers
        self.calls = self.tokens = 0

    def __call__(self, prompt: str) -> str:
        """The reply, the same one to the same prompt."""
        question = re.findall(r"^Question: (.*)$", prompt, flags=re.MULTILINE)[-1]
        parts = re.findall(r"^\[(\d+)\] (.*)$", prompt, flags=re.MULTILINE)
        rng = np.random.default_rng(zlib.crc32(prompt.encode()))
        errs = rng.random(len(parts)) < self._error
        judged = [
            (number, any(answer in text.lower() for answer in self._answers[question]) != wrong)
            for (number, text), wrong in zip(parts, errs, strict=True)
        ]
        named = [number for number, holds in judged if holds]
        if self._all_numbers:
            named += [number for number, holds in judged if not holds]
        reply = ", ".join(named) or "0"
        self.calls += 1
        self.tokens += len(self._tokenizer.encode(prompt)) + len(self._tokenizer.encode(reply))
        return reply


def asked_of(model: RefragModel, path: Path, items: int, passages: int) -> list[Asked]:
    """Questions of a set whose answer stands in a passage, on one line each."""
    answered = [q for q in load_questions(path, items=None) if q.answers and "\n" not in q.text]
    chosen = np.linspace(0, len(answered) - 1, min(items, len(answered))).astype(int)
    questions = [answered[i] for i in chosen]
    pool = PassagePool(model, [])
    pool.add([text for q in questions for text in (*q.needed, *q.others)])
    (contexts,) = draw_contexts(questions, [Setting("given", passages)], pool)
    texts = list(dict.fromkeys(text for context in contexts for text in context.passages))
    chunked = dict(zip(texts, model.chunker.chunk(texts), strict=True))
    vectors = dict(zip(texts, model.encode_passages(texts), strict=True))
    encoded = model.encode_questions([context.question.text for context in contexts])
    return [
        Asked(context, PolicyInputs([vectors[text] for text in context.passages], own), answers)
        for context, own in zip(contexts, encoded, strict=True)
        if (answers := occurrences(context, chunked))
    ]


def policies_of(
    model: RefragModel, asked: Sequence[Asked]
) -> dict[str, tuple[Policy, Script | None]]:
    """What is measured, by name."""
    found: dict[str, tuple[Policy, Script | None]] = {
        name: (make_policy(name, model), None) for name in ("random", "late-interaction", "auto")
    }
    for error in ERRORS:
        errs = f", {error:.0%} wrong"
        script = Script(model, asked, error, all_numbers=False)
        found["natural-language" + errs] = (NaturalLanguagePolicy(script).of(model), script)
        for window, name, budgets in (
            (2, "pairwise", PAIRS),
            (WINDOW, f"lists of {WINDOW}", LISTS),
        ):
            for comparisons in budgets:
                script = Script(model, asked, error, all_numbers=True)
                policy = ComparisonPolicy(script, comparisons=comparisons, window=window).of(model)
                found[f"{name}, {comparisons} comparisons{errs}"] = (policy, script)
    return found


def measured(policy: Policy, script: Script | None, sets: Sequence[Sequence[Asked]]) -> list[str]:
    """The cells of a policy's row."""
    strata, clusters = [], []
    policy.scores(sets[0][0].inputs)
    if script is not None:
        script.calls = script.tokens = 0
    started = time.process_time()
    scores = [[policy.scores(own.inputs) for own in asked] for asked in sets]
    total = sum(map(len, sets))
    ms = 1000 * (time.process_time() - started) / total
    for asked, ranked in zip(sets, scores, strict=True):
        strata.append(
            np.array(
                [
                    [
                        100.0 * any(mask[chunks].all() for chunks in own.answers)
                        for mask in (select(one, FractionBudget(share)) for share in FRACTIONS)
                    ]
                    for own, one in zip(asked, ranked, strict=True)
                ]
            )
        )
        clusters.append(cluster_labels([own.context.question.needed for own in asked]))
    draws = resample(strata, clusters)
    cells = []
    for i, mean in enumerate(mean_of_sets(strata)):
        low, high = interval(draws[:, i])
        cells.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
    costs = ["-", "-"]
    if script is not None:
        costs = [f"{script.calls / total:.1f}", f"{script.tokens / total:,.0f}"]
    return [*cells, *costs, f"{ms:.0f}"]


def main() -> None:
    """Measures every policy on the same questions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--items", type=int, default=40, help="questions per set")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = RefragModel.from_pretrained(options.model, device=options.device)
    sets = {}
    for path in options.questions:
        if found := asked_of(model, path, options.items, options.passages):
            sets[set_name(path)] = found
        print(f"{path}: {len(found)} questions", flush=True)
    body = []
    for name, (policy, script) in policies_of(
        model, [q for own in sets.values() for q in own]
    ).items():
        body.append([name, *measured(policy, script, list(sets.values()))])
        print(" | ".join(body[-1]), flush=True)
    shown = [f"answer shown, p={share:g}, %" for share in FRACTIONS]
    lines = markdown_table(["policy", *shown, "calls", "tokens", "ms"], body)
    about = (
        f"{sum(map(len, sets.values())):,} questions of {', '.join(sets)}; "
        f"{options.passages} passages each.\n\n"
    )
    options.out.write_text(about + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
