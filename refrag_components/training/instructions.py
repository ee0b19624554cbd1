"""Better instructions for policies by a chat model, found as GEPA does (arXiv 2507.19457)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from refrag_components.evaluation.answers.contexts import Context
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.prompts import PromptBuilder
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.exceptions import MissingExtraError
from refrag_components.policies import FractionBudget, NaturalLanguagePolicy
from refrag_components.policies.asking import asking

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["Improved", "improve_instruction"]

_PART = "instruction"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Improved:
    """What the search found.

    Attributes:
        instruction: The best one; the first one if none is better.
        score: Of it: how likely the right answers are per token, mean over the questions that
            decide, 0..1.
        before: The same of the first one.
        tried: Instructions that were measured on all those questions, the first one included.
    """

    instruction: str
    score: float
    before: float
    tried: int


def improve_instruction(
    policy: NaturalLanguagePolicy,
    model: RefragModel,
    contexts: Sequence[Context],
    *,
    reflect: Any,
    deciding: Sequence[Context] | None = None,
    fraction: float = 0.1,
    calls: int = 200,
    seed: int = 0,
) -> Improved:
    """Looks for an instruction with which a policy makes the right answers likelier.

    Some questions are asked with an instruction. For each, a model that reflects sees the numbered
    parts, what was named, the right answer, how likely the decoder found it with that choice and
    with all text, and in which parts it stands; and writes another instruction. What improves on
    those questions is measured on all that decide, and those best on some question are bred from.

    Args:
        policy: The policy; its instruction is the first one.
        model: Its decoder tells how likely answers are.
        contexts: Questions with answers, and passages, to learn from.
        reflect: The model that reflects, as the policy takes one; a strong one pays.
        deciding: Questions that decide which instruction is the best; those to learn from if None.
        fraction: Of the chunks that expands; the rest is compressed.
        calls: Most questions that are asked in all.
        seed: Of the search.

    Raises:
        MissingExtraError: If gepa is not installed.
        ValueError: If there are no questions, or fewer ``calls`` than questions that decide.
    """
    try:
        import gepa
    except ImportError as error:
        msg = 'better instructions need pip install "refrag-components[gepa]"'
        raise MissingExtraError(msg) from error
    deciding = contexts if deciding is None else deciding
    if not contexts or not deciding or calls < len(deciding):
        msg = (
            f"{len(contexts)} questions to learn from and {len(deciding)} that decide need at "
            f"least one each, and at least {len(deciding)} calls, got {calls}"
        )
        raise ValueError(msg)
    adapter = _Adapter(policy.of(model), model, fraction)
    learning, judging = adapter.add(contexts), adapter.add(deciding)
    ask = asking(reflect)
    typed: Any = adapter  # gepa's protocol is generic in ways that a class cannot spell out
    found: Any = gepa.optimize(
        seed_candidate={_PART: policy.instruction},
        trainset=learning,
        valset=judging,
        adapter=typed,
        reflection_lm=lambda prompt: ask([str(prompt)])[0],
        max_metric_calls=calls,
        logger=_Logger(),
        seed=seed,
    )
    scores = found.val_aggregate_scores
    best = found.best_idx
    return Improved(found.candidates[best][_PART], scores[best], scores[0], len(scores))


@dataclass(frozen=True)
class _Asked:
    """A question that was asked with an instruction.

    Attributes:
        index: Which one.
        named: Stretches that the model named.
        likely: How likely the right answer is per token, 0..1.
    """

    index: int
    named: list[list[int]]
    likely: float


class _Adapter:
    """Asks questions for gepa, which knows them by number.

    Args:
        policy: The policy, with any instruction.
        model: Its decoder tells how likely answers are.
        fraction: Of the chunks that expands.
    """

    propose_new_texts = None  # gepa's own way

    def __init__(self, policy: NaturalLanguagePolicy, model: RefragModel, fraction: float) -> None:
        self._policy, self._model = policy, model
        self._budget = FractionBudget(fraction)
        self._builder = PromptBuilder(EncodedPassages(model), max_new_tokens=1)
        self._contexts: list[Context] = []
        self._prompts: list[Prompt] = []
        self._tables: list[Any] = []
        self._whole: dict[int, float] = {}

    def add(self, contexts: Sequence[Context]) -> list[int]:
        """Numbers of questions that can be asked from now on."""
        first = len(self._contexts)
        built = self._builder.build(contexts)
        self._contexts += contexts
        self._prompts += built.prompts
        self._tables += [built.chunks] * len(contexts)
        return [*range(first, len(self._contexts))]

    def evaluate(
        self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False
    ) -> Any:
        """Scores of questions with an instruction, see ``gepa.GEPAAdapter``."""
        from gepa import EvaluationBatch

        policy = self._policy.following(candidate[_PART])
        asked = []
        for index in batch:
            prompt = self._prompts[index]
            named = policy.named(prompt.inputs)
            scores = {_PART: policy.scores_of(prompt.inputs, named)}
            choice = replace(prompt, scores=scores).chosen(_PART, self._budget)
            asked.append(_Asked(index, named, self._likely(index, prompt.laid_out(choice))))
        return EvaluationBatch(
            outputs=asked,
            scores=[each.likely for each in asked],
            trajectories=asked if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What the model that reflects sees, see ``gepa.GEPAAdapter``."""
        records = [self._record(asked) for asked in eval_batch.trajectories or ()]
        return {part: records for part in components_to_update}

    def _record(self, asked: _Asked) -> dict[str, Any]:
        context, prompt = self._contexts[asked.index], self._prompts[asked.index]
        parts = self._policy.stretches(prompt.inputs)
        if asked.index not in self._whole:
            whole = prompt.as_text(prompt.in_context)
            self._whole[asked.index] = self._likely(asked.index, whole)
        named = [i + 1 for same in asked.named for i in same]
        holding = [
            i
            for i, part in enumerate(parts, start=1)
            if any(answer.lower() in part.text.lower() for answer in context.question.answers)
        ]
        stands = (
            f"The answer stands word for word in {', '.join(map(str, holding))}; of these "
            f"{len({*holding} & {*named})} were named."
            if holding
            else "The answer does not stand word for word in any one part."
        )
        feedback = (
            f"The right answer is {context.question.target!r}. A reader that sees the named parts "
            f"as text and the rest only in outline gives it a probability of {asked.likely:.3f} "
            f"per token; with all parts as text it is {self._whole[asked.index]:.3f}. {stands} "
            f"There is room for about {self._budget.fraction:.0%} of the text."
        )
        return {
            "Inputs": {
                "question": context.question.text,
                "parts": "\n".join(f"[{i}] {part.text}" for i, part in enumerate(parts, start=1)),
            },
            "Generated Outputs": ", ".join(map(str, named)) or "no number of a part",
            "Feedback": feedback,
        }

    def _likely(self, index: int, row: Row) -> float:
        (output,) = decode(self._model, self._tables[index], [row], max_new_tokens=1)
        return math.exp(-output.log_ppl)


class _Logger:
    """What gepa tells, in this library's log instead of on the screen."""

    def log(self, message: str) -> None:
        """Logs a message."""
        logger.debug("%s", message)
