"""What a learned policy sees of a prompt: chunk vectors and what is cheap to count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pad

from refrag_components.text.chunking import QUESTION_PART

__all__ = [
    "CONTEXT_FEATURES",
    "LATE_INTERACTION",
    "PER_TOKEN",
    "QUESTION_FEATURES",
    "SHARED",
    "Observation",
    "context_features",
    "question_centre",
    "question_features",
]

CONTEXT_FEATURES = 12
QUESTION_FEATURES = 9
LATE_INTERACTION = 2  # which of the question's features is that policy's score

#: Cosine that a token of distance costs. At 0.003 a passage expands from where it matches in few
#: pieces, the best one mostly before the next begins (docs/policies.md has what else was tried).
PER_TOKEN = 0.003

#: Cosine that a shared token is worth if no other chunk of the context has it.
SHARED = 0.3

# Of cosines and their means: where all are alike, rounding must not look like a difference.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True, eq=False)
class Observation:
    """Prompts as a policy sees them, padded on the right to one shape.

    Attributes:
        vectors: Chunk vectors of all passages in order, (prompts, chunks, d_enc), float32.
        token_ids: Tokens of each chunk, 0 where there is none, (prompts, chunks, k), int64.
        used: True where ``token_ids`` holds a token, same shape.
        passages: Number of each chunk's passage, 0.. ascending, (prompts, chunks), int64.
        question_vectors: Vectors of the question's parts, (prompts, any, d_enc), float32.
        question_used: True where ``question_vectors`` holds one, (prompts, any).
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
    """Facts about each chunk that need no question, roughly of unit size.

    Mean and maximum of its tokens' rarity; how rare its tokens are that the context repeats; its
    length and k; its place in the passage and in the context, from both ends; which passage of how
    many; how typical it is of the context.

    Args:
        seen: The prompts.
        rarity: Rarity of every token of the vocabulary, (vocabulary,); an id beyond it counts as
            its last.

    Returns:
        (prompts, chunks, CONTEXT_FEATURES), 0 where padded.
    """
    present, k = seen.present, seen.used.shape[-1]
    used = seen.used.float()
    length = used.sum(-1).clamp(min=1)
    ids = seen.token_ids.clamp(max=len(rarity) - 1)
    rare = rarity[ids] * used
    counts = used.new_zeros(len(ids), len(rarity))
    counts = counts.scatter_add(1, ids.flatten(1), used.flatten(1)).gather(1, ids.flatten(1))
    repeated = counts.view_as(used).clamp(min=1).log()

    place = torch.arange(ids.shape[1], device=ids.device).expand_as(present)
    in_passage, passage_size = _places_in_passage(seen.passages, present)
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
        _short(in_passage),
        _short(passage_size - 1 - in_passage),
        _short(place),
        _short(total - 1 - place),
        _short(seen.passages),
        _short(last_passage).expand_as(length),
        cosine_similarity(seen.vectors, centre, dim=-1),
    ]
    return torch.stack(columns, dim=-1) * weight


def question_features(seen: Observation, rarity: Tensor) -> Tensor:
    """Facts about each chunk and the question, roughly of unit size; 0 without a question.

    Cosine to the question (what ``SimilarityPolicy`` sees), how far that stands out in the
    context; the score of ``LateInteractionPolicy``, how far that stands out; the largest cosine to
    a part of the question, rarity of the tokens that it shares with the question; the passage's
    mean cosine and shared rarity; and 1.

    Args:
        seen: The prompts.
        rarity: As for ``context_features``.

    Returns:
        (prompts, chunks, QUESTION_FEATURES), 0 where padded.
    """
    present = seen.present.float()
    asked = seen.question_used.any(dim=1, keepdim=True)
    cosines = cosine_similarity(seen.vectors, question_centre(seen), dim=-1) * present

    each = normalize(seen.vectors, dim=-1) @ normalize(seen.question_vectors, dim=-1).mT
    late = _late_interaction(each + SHARED * _shared(seen), seen)
    each = each.masked_fill(~seen.question_used.unsqueeze(1), -1)
    closest = pad(each, (0, 1), value=-1).amax(-1)  # -1 without a question

    ids = seen.token_ids.clamp(max=len(rarity) - 1)
    in_question = torch.zeros(len(ids), len(rarity) + 1, device=ids.device)  # last: padding
    question_ids = seen.question_ids.clamp(max=len(rarity) - 1)
    question_ids = torch.where(question_ids < 0, len(rarity), question_ids)
    in_question = in_question.scatter(1, question_ids, 1.0)
    shared = in_question.gather(1, ids.flatten(1)).view_as(rarity[ids])
    overlap = (shared * rarity[ids] * seen.used).sum(-1)
    columns = [
        cosines,
        _standing_out(cosines, present),
        late,
        _standing_out(late, present),
        closest,
        overlap,
        _passage_sums(cosines, seen.passages) / _passage_sums(present, seen.passages).clamp(min=1),
        _passage_sums(overlap, seen.passages).log1p(),
        torch.ones_like(cosines),
    ]
    return torch.stack(columns, dim=-1) * (present * asked).unsqueeze(-1)


def question_centre(seen: Observation) -> Tensor:
    """The mean vector of the question's parts, 0 without a question; (prompts, 1, d_enc)."""
    used = seen.question_used.unsqueeze(-1)
    count = used.sum(1, keepdim=True).clamp(min=1)
    return (seen.question_vectors * used).sum(1, keepdim=True) / count


def _shared(seen: Observation) -> Tensor:
    """How rare the rarest shared token is in its context, (prompts, chunks, question parts)."""
    parts = seen.question_used.shape[1]
    tokens = parts * QUESTION_PART
    same = seen.token_ids.unsqueeze(-1) == seen.question_ids[:, None, None]
    has = (same & seen.used.unsqueeze(-1)).any(dim=2).float()
    total = seen.present.sum(dim=1, keepdim=True)
    rarity = (total.clamp(min=1) / has.sum(dim=1).clamp(min=1)).log() / total.clamp(min=2).log()
    by_token = pad(has * rarity.unsqueeze(1), (0, tokens - has.shape[-1]))
    return by_token.unflatten(-1, (parts, QUESTION_PART)).amax(dim=-1)


def _late_interaction(matches: Tensor, seen: Observation) -> Tensor:
    """What ``LateInteractionPolicy`` gives for its matches, (prompts, chunks, question parts)."""
    place, _ = _places_in_passage(seen.passages, seen.present)
    way = PER_TOKEN * seen.used.shape[-1] * place.unsqueeze(-1)
    # One running maximum goes through all passages: each begins above all that came before it.
    last = (seen.passages * seen.present).amax(dim=1, keepdim=True)
    above = (3 + way.max()) * torch.where(seen.present, seen.passages, last).unsqueeze(-1)
    # In double precision, so that it does not matter how many came before.
    matches = matches.double().masked_fill(~seen.present.unsqueeze(-1), -1e4)
    before = (matches + way + above).cummax(dim=1).values - way - above
    after = (matches - way - above).flip(1).cummax(dim=1).values.flip(1) + way + above
    asked = seen.question_used.unsqueeze(1)
    parts = torch.maximum(before, after) * asked
    mean = parts.sum(-1) / asked.sum(-1).clamp(min=1)
    return mean.float() * seen.present


def _standing_out(values: Tensor, present: Tensor) -> Tensor:
    """A chunk's value less the context's mean, divided by three standard deviations."""
    total = present.sum(1, keepdim=True).clamp(min=1)
    deviation = (values - (values * present).sum(1, keepdim=True) / total) * present
    spread = (deviation.square().sum(1, keepdim=True) / total).sqrt().clamp(min=_LEAST_SPREAD)
    return deviation / spread / 3


def _places_in_passage(passages: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each chunk in its passage, and the passage's number of chunks."""
    place = torch.arange(passages.shape[1], device=passages.device).expand_as(passages)
    begins = pad(passages.diff(dim=1) != 0, (1, 0), value=True)
    starts = (place * begins).cummax(dim=1).values
    return place - starts, _passage_sums(present.float(), passages).long()


def _passage_sums(values: Tensor, passages: Tensor) -> Tensor:
    """The sum over its passage, at every chunk."""
    return torch.zeros_like(values).scatter_add(1, passages, values).gather(1, passages)


def _short(count: Tensor) -> Tensor:
    """A count on a scale where 0 is 0 and a few thousand is about 2."""
    return count.clamp(min=0).float().log1p() / 4
