"""What each step of policy training chooses chunks of; the same at every start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from refrag_components.cached import cached_property
from refrag_components.corpus import (
    Batch,
    QuestionSet,
    TokenisedCorpus,
    WindowSpec,
    build_batch,
    cut_windows,
    lay_out,
)
from refrag_components.exceptions import TrainingError
from refrag_components.modeling.policy_features import Observation
from refrag_components.training.policy.evidence import evidence, token_texts
from refrag_components.training.policy.rewards import EncodedPrompts

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.training.policy.settings import PolicySettings

__all__ = ["PolicyBatches", "PolicyExamples", "observe_examples", "token_rarity"]

_PASSAGE_COUNTS = (4, 8)
_MOST_TOKENS = 2048  # of a question's passages
_SLICE = 1 << 22  # tokens counted at a time


@dataclass(frozen=True, eq=False)
class PolicyExamples:
    """Prompts whose chunks are to be chosen, and what follows them.

    Attributes:
        batch: The prompts laid out at p = 0.
        questions: What each prompt asks, "" for running text.
        passage_chunks: Chunks per passage if passages touch; None if text is between them.
        chunk_size: Tokens per chunk (k).
        expanded: Fraction p of the chunks to choose.
        evidence: How much each chunk counts for the answer, (prompts, chunks), float32; None for
            running text.
    """

    batch: Batch
    questions: list[str]
    passage_chunks: int | None
    chunk_size: int
    expanded: float
    evidence: Tensor | None = None

    def to(self, device: torch.device) -> PolicyExamples:
        """Returns the examples on another device."""
        wanted = None if self.evidence is None else self.evidence.to(device)
        return replace(self, batch=self.batch.to(device), evidence=wanted)


@dataclass(frozen=True, eq=False)
class PolicyBatches(Dataset[PolicyExamples]):
    """Examples by step number: windows of running text, or questions over passages.

    Attributes:
        corpus: Tokenised text.
        settings: Of the policy stage.
        model: Gives tokenizers and separator.
        seed: Of everything that is drawn.
        questions: Needed if the settings have a ``question_share``.
    """

    corpus: TokenisedCorpus
    settings: PolicySettings
    model: RefragModel
    seed: int
    questions: QuestionSet | None = None

    def __post_init__(self) -> None:
        """Checks that there is something for every step."""
        needed = self.settings.context_tokens + self.settings.output_tokens
        if len(self.corpus) <= needed:
            msg = f"the corpus has {len(self.corpus)} tokens, a window needs {needed + 1}"
            raise TrainingError(msg)
        config = self.model.config
        if config.encoder_layers and set(self.settings.chunk_sizes) != {config.chunk_size}:
            msg = (
                f"this checkpoint's policies see chunks of {config.chunk_size} tokens; set "
                f"chunk_sizes = [{config.chunk_size}] in the recipe's [policy]"
            )
            raise TrainingError(msg)
        if self.settings.question_share and self.questions is None:
            msg = (
                "the recipe's policy stage has a question_share but there are no questions; pass "
                "--questions, or set question_share = 0"
            )
            raise TrainingError(msg)

    def __len__(self) -> int:
        """Number of steps."""
        return self.settings.steps

    def __getitem__(self, step: int) -> PolicyExamples:
        """Makes the examples of one step."""
        rng = np.random.default_rng([self.seed, 5, step])
        k = int(rng.choice(self.settings.chunk_sizes))
        p = float(rng.choice(self.settings.expanded))
        if self.questions is not None and rng.random() < self.settings.question_share:
            return self._over_passages(self.questions, k, p, rng)
        return self._windows(k, p, rng)

    def _over_passages(
        self, questions: QuestionSet, k: int, p: float, rng: np.random.Generator
    ) -> PolicyExamples:
        shown = int(rng.integers(1, self.settings.max_passages + 1))
        drawn = [questions.draw(shown, _MOST_TOKENS, rng) for _ in range(self.settings.examples)]
        rows = [
            lay_out(row, questions, kind="compressed", share=0.0, rung=k, rungs=(k,), rng=rng)
            for row in drawn
        ]
        batch = build_batch(rows, chunk_size=k, rungs=(k,))
        wanted = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(evidence(row, questions, self._texts, k)) for row in drawn],
            batch_first=True,
        )
        return PolicyExamples(batch, [row.question for row in drawn], None, k, p, wanted)

    @cached_property
    def _texts(self) -> list[str]:
        return token_texts(self.model.tokenizer)

    def _windows(self, k: int, p: float, rng: np.random.Generator) -> PolicyExamples:
        settings = self.settings
        passages = int(rng.choice(_PASSAGE_COUNTS))
        chunks = max(settings.context_tokens // passages // k, 1)  # whole ones: rows of one length
        spec = WindowSpec(
            passages=passages,
            passage_tokens=chunks * k,
            output_tokens=settings.output_tokens,
        )
        batch = cut_windows(
            self.corpus,
            rng.integers(0, len(self.corpus) - spec.span, size=settings.examples),
            spec,
            chunk_size=k,
            rungs=(k,),
            row_rungs=[k] * settings.examples,
            separator=self.model.first_token_id,
            rng=rng,
        )
        return PolicyExamples(batch, [""] * settings.examples, chunks, k, p)


def observe_examples(
    model: RefragModel, examples: PolicyExamples, prompts: EncodedPrompts
) -> Observation:
    """Shows the policies what they would see of these prompts at query time.

    Args:
        model: Encodes the questions.
        examples: On the model's device.
        prompts: Their batch, encoded.
    """
    present = prompts.present
    encoded = model.encode_questions(examples.questions)
    vectors = [torch.from_numpy(question.vectors) for question in encoded]
    ids = [torch.from_numpy(question.token_ids.astype(np.int64)) for question in encoded]
    used = [torch.ones(len(rows), dtype=torch.bool) for rows in vectors]
    padded = torch.nn.utils.rnn.pad_sequence
    return Observation(
        vectors=prompts.vectors,
        token_ids=prompts.token_ids[prompts.chunks] * present.unsqueeze(-1),
        used=prompts.used[prompts.chunks] & present.unsqueeze(-1),
        passages=_passages(examples, prompts),
        question_vectors=padded(vectors, batch_first=True).to(present.device),
        question_used=padded(used, batch_first=True).to(present.device),
        question_ids=padded(ids, batch_first=True, padding_value=-1).to(present.device),
    )


def token_rarity(corpus: TokenisedCorpus, vocabulary: int) -> Tensor:
    """A tenth of every token's surprisal in nats under the corpus's counts plus one.

    Args:
        corpus: Text to count.
        vocabulary: Number of tokens; larger than every id of the corpus.

    Returns:
        (vocabulary,), float32, positive.
    """
    counts = np.ones(vocabulary)
    for start in range(0, len(corpus), _SLICE):
        counts += np.bincount(corpus.tokens[start : start + _SLICE], minlength=vocabulary)
    return torch.from_numpy(-np.log(counts / counts.sum()) / 10).float()


def _passages(examples: PolicyExamples, prompts: EncodedPrompts) -> Tensor:
    """Number of each chunk's passage, (prompts, chunks)."""
    if examples.passage_chunks is not None:
        place = torch.arange(prompts.present.shape[1], device=prompts.present.device)
        return (place // examples.passage_chunks).expand_as(prompts.present).contiguous()
    is_chunk = examples.batch.chunk_index >= 0
    begins = is_chunk & ~torch.nn.functional.pad(is_chunk, (1, 0))[:, :-1]
    numbers = torch.zeros_like(prompts.chunks)
    numbers[prompts.present] = (begins.cumsum(dim=1) - 1)[is_chunk]
    return numbers
