"""Which windows each training step sees; the same at every start, so that a run can resume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.utils.data import Dataset

from refrag_components.corpus import (
    Batch,
    ClozeForm,
    ConversationSpec,
    QuestionSet,
    TokenisedCorpus,
    WindowSpec,
    cut_windows,
    lay_out_conversations,
)
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.training.curriculum import STAGES, stage_mixture
from refrag_components.training.recipe import MOST_PASSAGES, StageSettings

__all__ = ["PlannedBatches", "continual_plan", "reconstruction_plan"]

_PASSAGE_COUNTS = (4, MOST_PASSAGES)
_RECALLED = (16, 32, 64)  # tokens a span
_FAVOUR = 4.0  # a quarter of the chunks of 5 passages: the one that answers, and little else

# Shorter rows count as this long: each costs the encoder a sequence of its own.
_FEWEST_POSITIONS = 16


def reconstruction_plan(settings: StageSettings, seed: int) -> list[WindowSpec | ConversationSpec]:
    """Stage 1: repeat the context from its chunk embeddings, short contexts first.

    Each of the nine stages gets the same number of steps. A step's number of chunks is drawn by
    the stage's share of examples times its length, since a batch holds a fixed number of
    positions and so fewer long examples.
    """
    rng = np.random.default_rng([seed, 1])
    plan: list[WindowSpec | ConversationSpec] = []
    for step in range(settings.steps):
        k = int(rng.choice(settings.chunk_sizes))
        plan.append(_of_curriculum(step * STAGES // settings.steps, k, settings, rng))
    return plan


def continual_plan(settings: StageSettings, seed: int) -> list[WindowSpec | ConversationSpec]:
    """Stages 2 and 3: go on after a context of which a random fraction p is expanded, or answer.

    The two differ in their settings alone: fine-tuning answers questions most of the time.
    """
    rng = np.random.default_rng([seed, 2])
    plan: list[WindowSpec | ConversationSpec] = []
    for step in range(settings.steps):
        k = int(rng.choice(settings.chunk_sizes))
        p = float(rng.choice(settings.expanded))
        kind = rng.random()
        if step < settings.curriculum_steps and step % 2 == 0:
            stage = step * STAGES // settings.curriculum_steps
            plan.append(_of_curriculum(stage, k, settings, rng))
            continue
        if kind < (share := settings.reconstruction_share):
            plan.append(_reconstruct(settings.reconstruction_tokens // k, k))
            continue
        if kind < (share := share + settings.conversation_share):
            shown = int(rng.integers(1, settings.max_passages + 1))
            run = int(rng.choice(settings.runs))
            wanted = settings.favoured_share if 0 < p < 1 else 0.0
            favoured = wanted > 0 and rng.random() < wanted
            plan.append(
                ConversationSpec(
                    chunk_size=k,
                    expanded=p,
                    run=run,
                    favour=_FAVOUR if favoured else 1.0,
                    passages=shown,
                )
            )
            continue
        passages = int(rng.choice(_PASSAGE_COUNTS))
        context = int(rng.choice(settings.context_tokens))
        tokens = context // passages
        if p in (0.0, 1.0):  # real passages end where they end: let the last chunk be short
            tokens -= int(rng.integers(k))
        output = min(settings.output_tokens, passages * tokens)
        recalled = min(int(rng.choice(_RECALLED)), output)
        recent = bool(rng.random() < settings.recent_share)
        cloze = kind < (share := share + settings.cloze_share)
        recalls = not cloze and kind < share + settings.recall_share
        plan.append(
            WindowSpec(
                chunk_size=k,
                passages=passages,
                passage_tokens=tokens,
                output_tokens=output,
                expanded=p,
                run=1 if recent else int(rng.choice(settings.runs)),
                recent=recent,
                recalled=recalled if recalls else 0,
                cloze=cloze,
                shuffled=bool(rng.random() < settings.shuffled_share),
            )
        )
    return plan


def _of_curriculum(
    stage: int, k: int, settings: StageSettings, rng: np.random.Generator
) -> WindowSpec:
    """What to repeat in a stage of the curriculum."""
    mixture = stage_mixture(stage, settings.reconstruction_tokens // k)
    weight = np.array([share * chunks for chunks, share in mixture.items()])
    return _reconstruct(int(rng.choice(list(mixture), p=weight / weight.sum())), k)


def _reconstruct(chunks: int, k: int) -> WindowSpec:
    tokens = chunks * k
    return WindowSpec(
        chunk_size=k, passages=1, passage_tokens=tokens, output_tokens=tokens, reconstruct=True
    )


@dataclass(frozen=True, eq=False)
class PlannedBatches(Dataset[Batch]):
    """Batches by step number.

    Attributes:
        corpus: Tokenised text.
        plan: What each step sees.
        model: Gives tokenizers and separator.
        positions: Decoder positions a batch, about.
        seed: Of everything that is drawn.
        questions: For conversations; needed where the plan has any.
        with_full_text: Whether a teacher's text passes through the decoder too (distillation), but
            at p = 1, where it is the text itself, and where text of the context is asked for.
        base_teacher: Whether the teacher is the base decoder: it stands beside plain text too, and
            labels of the context are left out.
        replicas: Processes that train together. They take turns through the batches, and each
            step's batches have one shape, so that none waits for another.
    """

    corpus: TokenisedCorpus
    plan: list[WindowSpec | ConversationSpec]
    model: RefragModel
    positions: int
    seed: int
    questions: QuestionSet | None = None
    with_full_text: bool = False
    base_teacher: bool = False
    replicas: int = 1

    def __post_init__(self) -> None:
        """Checks that there is text for every step."""
        longest = max((s.span for s in self.plan if isinstance(s, WindowSpec)), default=0)
        if len(self.corpus) <= longest:
            msg = f"the corpus has {len(self.corpus)} tokens, a window needs {longest + 1}"
            raise TrainingError(msg)
        if self.questions is None and any(isinstance(s, ConversationSpec) for s in self.plan):
            msg = (
                "the recipe has a conversation_share but there are no questions; prepare some with "
                "`refrag train questions` and pass --questions"
            )
            raise TrainingError(msg)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.plan) * self.replicas

    def __getitem__(self, index: int) -> Batch:
        """Makes one batch."""
        spec = self.plan[index // self.replicas]
        rng = np.random.default_rng([self.seed, 3, index])
        if isinstance(spec, ConversationSpec):
            return self._conversations(spec, rng)
        each = spec.positions
        # What is repeated, recalled or left out of a sentence is certain: no reader of the full
        # text says it better. And a reader of plain text (p = 1) has nothing to learn from itself.
        itself = spec.expanded == 1 and not self.base_teacher
        with_full_text = self.with_full_text and not (spec.quotes or itself)
        if with_full_text:
            each += spec.context_tokens // 3  # the teacher keeps nothing for a backward pass
        rows = max(1, self.positions // max(each, _FEWEST_POSITIONS))
        return cut_windows(
            self.corpus,
            rng.integers(0, len(self.corpus) - spec.span, size=rows),
            spec,
            encoder=self.model.encoder,
            separator=self.model.first_token_id,
            rng=rng,
            with_full_text=with_full_text,
            form=self._form if spec.cloze else None,
            # Questions are few beside their context: its own tokens would drown them.
            with_context_labels=not (self.base_teacher or spec.cloze),
        )

    @cached_property
    def _form(self) -> ClozeForm:
        return ClozeForm.of(self.model.tokenizer)

    def _conversations(self, spec: ConversationSpec, rng: np.random.Generator) -> Batch:
        assert self.questions is not None
        rows = self.questions.fill(self.positions, spec, rng, with_full_text=self.with_full_text)
        return lay_out_conversations(
            rows,
            spec,
            self.questions,
            encoder=self.model.encoder,
            rng=rng,
            with_full_text=self.with_full_text,
        )
