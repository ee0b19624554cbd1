"""The network of the learned policies, and its file.

It is the paper's: a two-layer transformer over chunk vectors with one logit per chunk, computed
once (appendix A.1). Two things are added: a short convolution before each layer's attention, which
lets a chunk see its neighbours at any length of context; and, next to the vectors, a few counted
features that the heuristics use and that cost almost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.policy_features import (
    CONTEXT_FEATURES,
    LATE_INTERACTION,
    QUESTION_FEATURES,
    Observation,
    context_features,
    question_centre,
    question_features,
)

__all__ = ["NETWORKS", "POLICY_FILE", "PolicyNetwork", "load_networks", "save_networks"]

#: The file of a checkpoint that carries the networks.
POLICY_FILE = "policy.safetensors"

#: Name of each learned policy -> whether its network sees the question.
NETWORKS = {"learned": False, "learned-query": True}

_WIDTH = 192
_HEADS = 6
_LAYERS = 2
_NEIGHBOURS = 5  # chunks that the convolution looks at: two on either side
_START = 10.0  # logits per unit of late interaction before training
_PADDED = -1e9  # logit of padding: never picked, and no NaN where nothing else is left


class PolicyNetwork(nn.Module):
    """One logit per chunk; about a million parameters.

    A new network starts from what is known to work: one that sees the question ranks chunks as
    ``LateInteractionPolicy`` does; without a question all chunks have the same logit.

    Args:
        encoder_width: Width of the vectors of chunks and questions that it reads (d_enc).
        rarity: Rarity of every token, a tenth of its surprisal in nats, shape (vocabulary,).
        sees_question: True for the query-conditioned variant; the paper's sees chunks only.
    """

    rarity: Tensor

    def __init__(self, encoder_width: int, rarity: Tensor, *, sees_question: bool) -> None:
        super().__init__()
        self.sees_question = sees_question
        self.register_buffer("rarity", rarity)
        features = CONTEXT_FEATURES + (QUESTION_FEATURES if sees_question else 0)
        # Encoders differ in scale; what counts is the direction of their vectors.
        self.norm = nn.LayerNorm(encoder_width)
        self.read = nn.Linear(encoder_width * (1 + sees_question) + features, _WIDTH)
        self.read_question = nn.Linear(encoder_width, _WIDTH) if sees_question else None
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 1))
        self.shortcut = nn.Linear(features, 1, bias=False)
        for parameter in (*self.head[1].parameters(), self.shortcut.weight):
            nn.init.zeros_(parameter)
        if sees_question:
            nn.init.constant_(self.shortcut.weight[:, CONTEXT_FEATURES + LATE_INTERACTION], _START)

    def forward(self, seen: Observation, *, late: float = 0.0) -> Tensor:
        """Scores the chunks of a few prompts.

        Args:
            seen: The prompts.
            late: Logits that are added per unit of late interaction, if the question is seen.

        Returns:
            Logits s_i, (prompts, chunks), float32; very low for padding.
        """
        present = seen.present
        features = context_features(seen, self.rarity)
        vectors = self.norm(seen.vectors)
        inputs = [vectors]
        question = vectors[:, :0]
        question_used = present[:, :0]
        added = torch.zeros_like(present, dtype=torch.float32)
        if self.read_question is not None:
            with_question = question_features(seen, self.rarity)
            added = late * with_question[..., LATE_INTERACTION]
            features = torch.cat([features, with_question], dim=-1)
            has_question = seen.question_used.any(dim=1)[:, None, None]
            inputs.append(vectors * self.norm(question_centre(seen)) * has_question)
            question = self.read_question(self.norm(seen.question_vectors))
            question_used = seen.question_used
        else:
            question = question.new_zeros(len(vectors), 0, _WIDTH)
        states = self.read(torch.cat([*inputs, features], dim=-1))
        # The question's parts follow the context's chunks, so that attention compares them.
        states = torch.cat([states, question], dim=1)
        for layer in self.layers:
            states = layer(states, present, question_used)
        chunks = states[:, : present.shape[1]]
        logits = (self.head(chunks) + self.shortcut(features)).squeeze(-1)
        return (logits.float() + added).masked_fill(~present, _PADDED)


class _Layer(nn.Module):
    """Convolution over neighbouring chunks, attention over everything, MLP; each with pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(3))
        self.neighbours = nn.Conv1d(
            _WIDTH, _WIDTH, _NEIGHBOURS, padding=_NEIGHBOURS // 2, groups=_WIDTH
        )
        self.queries_keys_values = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.attended = nn.Linear(_WIDTH, _WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH)
        )

    def forward(self, states: Tensor, present: Tensor, question_used: Tensor) -> Tensor:
        """Maps states of chunks and question, (prompts, chunks + question, width), to the next."""
        chunks = self.norms[0](states[:, : present.shape[1]]) * present.unsqueeze(-1)
        mixed = self.neighbours(chunks.transpose(1, 2)).transpose(1, 2)
        states = states + F.pad(mixed, (0, 0, 0, states.shape[1] - mixed.shape[1]))

        rows, length, _ = states.shape
        projected = self.queries_keys_values(self.norms[1](states))
        query, key, value = projected.view(rows, length, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        visible = torch.cat([present, question_used], dim=1)
        visible = visible | ~visible.any(dim=1, keepdim=True)  # seeing nothing would be NaN
        mask = None if rows == 1 else visible[:, None, None]  # one prompt has no padding
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + self.attended(attended.transpose(1, 2).flatten(2))
        result: Tensor = states + self.mlp(self.norms[2](states))
        return result


def save_networks(networks: Mapping[str, nn.Module], path: Path) -> None:
    """Writes the networks in float16, each tensor named "policy name.parameter"."""
    save_file(
        {
            f"{name}.{entry}": tensor.detach().half().contiguous().cpu()
            for name, network in networks.items()
            for entry, tensor in network.state_dict().items()
        },
        path,
    )


def load_networks(path: Path, encoder_width: int) -> nn.ModuleDict:
    """Reads what ``save_networks`` wrote, as float32 networks that do not train.

    Args:
        path: The file; if there is none, there are no networks.
        encoder_width: Width of the vectors of chunks and questions that they read (d_enc).

    Raises:
        UnknownModelError: If the file is damaged or belongs to another encoder.
    """
    networks = nn.ModuleDict()
    if not path.is_file():
        return networks
    try:
        tensors = load_file(path)
        for name in sorted({entry.partition(".")[0] for entry in tensors}):
            prefix = f"{name}."
            state = {
                k.removeprefix(prefix): v.float()
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            network = PolicyNetwork(encoder_width, state["rarity"], sees_question=NETWORKS[name])
            network.load_state_dict(state)
            networks[name] = network
    except (KeyError, OSError, RuntimeError, SafetensorError) as error:
        msg = (
            f"{path} is damaged or belongs to another encoder or version ({error}); copy or "
            f"download the checkpoint again, or remove {path.name} to use the checkpoint without "
            "learned policies"
        )
        raise UnknownModelError(msg) from error
    return networks.requires_grad_(False).eval()
