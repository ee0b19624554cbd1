"""Random networks of the learned policies, and random prompts for them."""

from __future__ import annotations

from dataclasses import fields

import torch

from refrag_components.modeling.policy_features import Observation
from refrag_components.modeling.policy_network import NETWORKS, PolicyNetwork

WIDTH = 24
VOCABULARY = 400


def network(name: str, seed: int = 0) -> PolicyNetwork:
    """A network whose scores are not all equal."""
    torch.manual_seed(seed)
    made = PolicyNetwork(WIDTH, torch.rand(VOCABULARY), sees_question=NETWORKS[name])
    for parameter in (made.head[1].weight, made.shortcut.weight):
        torch.nn.init.normal_(parameter)
    return made.eval()


def random_observation(seed: int, chunks: list[int], questions: list[int], k: int) -> Observation:
    """Prompts with these numbers of chunks and of question parts, padded."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, parts = len(chunks), max(chunks), max(questions)
    present = torch.arange(width) < torch.tensor(chunks).unsqueeze(1)
    used = torch.rand(rows, width, k, generator=generator) < 0.8
    used[..., 0] = True
    used &= present.unsqueeze(-1)
    question_used = torch.arange(parts) < torch.tensor(questions).unsqueeze(1)
    steps = torch.rand(rows, width, generator=generator) < 0.2
    return Observation(
        vectors=torch.randn(rows, width, WIDTH, generator=generator) * present.unsqueeze(-1),
        token_ids=torch.randint(VOCABULARY, used.shape, generator=generator) * used,
        used=used,
        passages=(steps.cumsum(1) - steps[:, :1].long()) * present,
        question_vectors=torch.randn(rows, parts, WIDTH, generator=generator)
        * question_used.unsqueeze(-1),
        question_used=question_used,
        question_ids=torch.where(
            question_used,
            torch.randint(VOCABULARY, question_used.shape, generator=generator),
            -1,
        ),
    )


def alone(seen: Observation, row: int, chunks: int, questions: int) -> Observation:
    """One prompt of several, without its padding."""
    values = {}
    for entry in fields(seen):
        length = questions if entry.name.startswith("question") else chunks
        values[entry.name] = getattr(seen, entry.name)[row : row + 1, :length]
    return Observation(**values)
