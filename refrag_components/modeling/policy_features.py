"""What a learned policy sees of a prompt: chunk vectors and features that are cheap to count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad

from refrag_components.text.chunking import QUESTION_PART

__all__ = [
    "CONTEXT_FEATURES",
    "COSINE_PER_SHARED_TOKEN",
    "COSINE_PER_TOKEN",
    "LATE_INTERACTION",
    "QUESTION_FEATURES",
    "Observation",
    "context_features",
    "question_centre",
    "question_features",
]

CONTEXT_FEATURES = 12
QUESTION_FEATURES = 9
LATE_INTERACTION = 2  # index of that policy's score among the question features

#: What each token of distance to the matching chunk costs, in units of cosine. At 0.003 a passage
#: expands around its matches in a few spans, mostly one span after the other, the best one first
#: (docs/policies.md has what else was tried).
COSINE_PER_TOKEN = 0.003

#: What a shared token is worth if no other chunk of the context has it, in units of cosine.
COSINE_PER_SHARED_TOKEN = 0.3

# Smallest standard deviation to divide by, so that rounding does not look like a difference
# between cosines that are all alike.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True, eq=False)
class Observation:
    """Prompts as a policy sees them, padded on the right to one shape.

    Attributes:
        vectors: What policies read of the chunk vectors of all passages in order, (prompts, chunks,
            d_enc), float32.
        token_ids: Tokens of each chunk, padded with 0, (prompts, chunks, k), int64.
        used: True where ``token_ids`` holds a token, same shape.
        passages: Index of each chunk's passage, from 0 ascending, (prompts, chunks), int64.
        question_vectors: Vectors of the question's parts, (prompts, any, d_enc), float32.
        question_used: True where ``question_vectors`` holds a vector, (prompts, any).
        question_ids: The question's tokens padded with -1, (prompts, any), int64.
    """

    vectors: Tensor
    token_ids: Tensor
    used: Tensor
    passages: Tensor
    question_vectors: Tensor
    question_used: Tensor
    question_ids: Tensor

    @property
    def present(self) -> Tensor:
        """True for chunks, False for padding, (prompts, chunks)."""
        return self.used.any(dim=-1)


def context_features(seen: Observation, rarity: Tensor) -> Tensor:
    """Features of each chunk that need no question, roughly of unit size.

    Mean and maximum of its tokens' rarity; how rare those of its tokens are that the context
    repeats; its length and k; its position in the passage and in the context, from both ends; the
    index of its passage and the number of passages; how typical it is of the context.

    Args:
        seen: The prompts.
        rarity: Rarity of every token of the vocabulary, (vocabulary,); a larger id counts as the
            last one.

    Returns:
        Shape (prompts, chunks, CONTEXT_FEATURES), 0 for padding.
    """
    present, k = seen.present, seen.used.shape[-1]
    used = seen.used.float()
    length = used.sum(-1).clamp(min=1)
    ids = seen.token_ids.clamp(max=len(rarity) - 1)
    rare = rarity[ids] * used
    counts = used.new_zeros(len(ids), len(rarity))
    counts = counts.scatter_add(1, ids.flatten(1), used.flatten(1)).gather(1, ids.flatten(1))
    repeated = counts.view_as(used).clamp(min=1).log()

    in_context = torch.arange(ids.shape[1], device=ids.device).expand_as(present)
    in_passage, passage_size = _index_in_passage(seen.passages, present)
    total = present.sum(dim=1, keepdim=True)
    last_passage = (seen.passages * present).amax(dim=1, keepdim=True)
    weight = present.unsqueeze(-1)
    centre = (seen.vectors * weight).sum(1, keepdim=True) / total.clamp(min=1).unsqueeze(-1)
    columns = [
        rare.sum(-1) / length,
        rare.amax(-1),
        (rare * repeated).sum(-1) / length,
        length / k,
        torch.full_like(length, k).log2() / 4,
        _log_scale(in_passage),
        _log_scale(passage_size - 1 - in_passage),
        _log_scale(in_context),
        _log_scale(total - 1 - in_context),
        _log_scale(seen.passages),
        _log_scale(last_passage).expand_as(length),
        cosine_similarity(seen.vectors, centre, dim=-1),
    ]
    return torch.stack(columns, dim=-1) * weight


def question_features(seen: Observation, rarity: Tensor) -> Tensor:
    """Features of each chunk with the question, roughly of unit size; 0 without a question.

    Cosine to the question (what ``SimilarityPolicy`` sees) and how far it stands out in the
    context; the score of ``LateInteractionPolicy`` and how far it stands out; the largest cosine to
    a part of the question; the rarity of the tokens that it shares with the question; the passage's
    mean cosine and shared rarity; and 1.

    Args:
        seen: The prompts.
        rarity: As for ``context_features``.

    Returns:
        Shape (prompts, chunks, QUESTION_FEATURES), 0 for padding.
    """
    present = seen.present.float()
    has_question = seen.question_used.any(dim=1, keepdim=True)
    cosines = cosine_similarity(seen.vectors, question_centre(seen), dim=-1) * present

    part_cosines = normalize(seen.vectors, dim=-1) @ normalize(seen.question_vectors, dim=-1).mT
    late = _late_interaction(part_cosines + COSINE_PER_SHARED_TOKEN * _shared(seen), seen)
    part_cosines = part_cosines.masked_fill(~seen.question_used.unsqueeze(1), -1)
    closest = pad(part_cosines, (0, 1), value=-1).amax(-1)  # -1 without a question

    ids = seen.token_ids.clamp(max=len(rarity) - 1)
    in_question = torch.zeros(len(ids), len(rarity) + 1, device=ids.device)  # last: padding
    question_ids = seen.question_ids.clamp(max=len(rarity) - 1)
    question_ids = torch.where(question_ids < 0, len(rarity), question_ids)
    in_question = in_question.scatter(1, question_ids, 1.0)
    shared = in_question.gather(1, ids.flatten(1)).view_as(rarity[ids])
    overlap = (shared * rarity[ids] * seen.used).sum(-1)
    columns = [
        cosines,
        _standardised(cosines, present),
        late,
        _standardised(late, present),
        closest,
        overlap,
        _passage_sums(cosines, seen.passages) / _passage_sums(present, seen.passages).clamp(min=1),
        _passage_sums(overlap, seen.passages).log1p(),
        torch.ones_like(cosines),
    ]
    return torch.stack(columns, dim=-1) * (present * has_question).unsqueeze(-1)


def question_centre(seen: Observation) -> Tensor:
    """Mean vector of the question's parts, 0 without a question, (prompts, 1, d_enc)."""
    used = seen.question_used.unsqueeze(-1)
    count = used.sum(1, keepdim=True).clamp(min=1)
    return (seen.question_vectors * used).sum(1, keepdim=True) / count


def _shared(seen: Observation) -> Tensor:
    """Rarity in its context of the rarest shared token, (prompts, chunks, question parts)."""
    parts = seen.question_used.shape[1]
    tokens = parts * QUESTION_PART
    same = seen.token_ids.unsqueeze(-1) == seen.question_ids[:, None, None]
    has = (same & seen.used.unsqueeze(-1)).any(dim=2).float()
    total = seen.present.sum(dim=1, keepdim=True)
    rarity = (total.clamp(min=1) / has.sum(dim=1).clamp(min=1)).log() / total.clamp(min=2).log()
    by_token = pad(has * rarity.unsqueeze(1), (0, tokens - has.shape[-1]))
    return by_token.unflatten(-1, (parts, QUESTION_PART)).amax(dim=-1)


def _late_interaction(matches: Tensor, seen: Observation) -> Tensor:
    """Scores of ``LateInteractionPolicy`` for matches (prompts, chunks, question parts)."""
    index, _ = _index_in_passage(seen.passages, seen.present)
    cost = COSINE_PER_TOKEN * seen.used.shape[-1] * index.unsqueeze(-1)
    # One running maximum covers all passages: each passage begins above all earlier ones.
    last = (seen.passages * seen.present).amax(dim=1, keepdim=True)
    above = (3 + cost.max()) * torch.where(seen.present, seen.passages, last).unsqueeze(-1)
    # In double precision, so that the number of earlier passages does not matter.
    matches = matches.double().masked_fill(~seen.present.unsqueeze(-1), -1e4)
    before = (matches + cost + above).cummax(dim=1).values - cost - above
    after = (matches - cost - above).flip(1).cummax(dim=1).values.flip(1) + cost + above
    question_used = seen.question_used.unsqueeze(1)
    parts = torch.maximum(before, after) * question_used
    mean = parts.sum(-1) / question_used.sum(-1).clamp(min=1)
    return mean.float() * seen.present


def _standardised(values: Tensor, present: Tensor) -> Tensor:
    """A chunk's value minus the context's mean, divided by three standard deviations."""
    total = present.sum(1, keepdim=True).clamp(min=1)
    deviation = (values - (values * present).sum(1, keepdim=True) / total) * present
    spread = (deviation.square().sum(1, keepdim=True) / total).sqrt().clamp(min=_LEAST_SPREAD)
    return deviation / spread / 3


def _index_in_passage(passages: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each chunk in its passage, and the passage's number of chunks."""
    index = torch.arange(passages.shape[1], device=passages.device).expand_as(passages)
    begins = pad(passages.diff(dim=1) != 0, (1, 0), value=True)
    starts = (index * begins).cummax(dim=1).values
    return index - starts, _passage_sums(present.float(), passages).long()


def _passage_sums(values: Tensor, passages: Tensor) -> Tensor:
    """For every chunk the sum over its passage."""
    return torch.zeros_like(values).scatter_add(1, passages, values).gather(1, passages)


def _log_scale(count: Tensor) -> Tensor:
    """A count on a scale where 0 is 0 and a few thousand is about 2."""
    return count.clamp(min=0).float().log1p() / 4
