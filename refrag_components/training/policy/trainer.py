"""Stage 4: the learned policies, by GRPO against the frozen model (paper, appendix A.1).

Both networks train side by side on the same prompts. The paper's method is the second phase: each
network picks chunks, the continuation's log-perplexity rewards them. One reward for dozens of
picks is a faint signal, so there is a first phase of ours: on questions the networks learn where
answers stand (``evidence.evidence_loss``), on running text they fit the rewards of random choices,
which serve both of them at once (``grpo.gain_loss``). ``warm_up = 0`` leaves it out.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from refrag_components.atomic import atomic_folder
from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_features import (
    LATE_INTERACTION,
    Observation,
    context_features,
    question_features,
)
from refrag_components.modeling.policy_network import (
    NETWORKS,
    POLICY_FILE,
    PolicyNetwork,
    save_networks,
)
from refrag_components.training.optimizer_file import load_optimizer, save_optimizer
from refrag_components.training.policy.evidence import evidence_loss
from refrag_components.training.policy.examples import (
    PolicyBatches,
    PolicyExamples,
    observe_examples,
    token_rarity,
)
from refrag_components.training.policy.grpo import (
    clipped_objective,
    gain_loss,
    group_advantages,
    pick_log_probs,
    picks_to_mask,
    sample_picks,
    uniform_logits,
)
from refrag_components.training.policy.rewards import EncodedPrompts, encode_prompts, rewards
from refrag_components.training.progress import Progress
from refrag_components.training.states import last_state, new_state, remove_left_overs
from refrag_components.weights.lookup import checkpoint_folder

if TYPE_CHECKING:
    from refrag_components.training.policy.settings import PolicySettings

__all__ = ["PolicyTrainer", "train_policies"]

_NETWORKS = "networks.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_WORKERS = 8
_RANDOM_CHOICES = 4  # random choices per prompt that an evaluation compares with

_logger = logging.getLogger(__name__)


class PolicyTrainer:
    """Trains both learned policies; a killed run goes on from its last state.

    Everything that is drawn depends on the seed and the step alone, so a run that was killed ends
    with the same weights as one that was not.

    Args:
        model: Frozen; gives the rewards.
        batches: What each step chooses chunks of.
        folder: Where states and the log go.
        validation: Held-out batches; evaluations use the first few.
    """

    def __init__(
        self,
        model: RefragModel,
        batches: PolicyBatches,
        folder: Path,
        *,
        validation: PolicyBatches,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.batches = batches
        self.settings = batches.settings
        self.folder = folder
        self.validation = validation
        vocabulary = model.decoder.get_input_embeddings().weight.shape[0]
        self._rarity = token_rarity(batches.corpus, vocabulary).to(model.device)
        torch.manual_seed(batches.seed)
        self.networks = nn.ModuleDict(
            {
                name: PolicyNetwork(
                    model.policy_width, self._rarity.clone(), sees_question=sees_question
                )
                for name, sees_question in NETWORKS.items()
            }
        ).to(model.device)
        if self.settings.go_on:
            for name, network in self.model.policies.items():
                self.networks[name].load_state_dict(network.state_dict())
        self._optimiser = torch.optim.AdamW(self.networks.parameters(), weight_decay=0.01)
        self._progress = Progress(self.settings.steps, self.settings.max_seconds)

    def train(self) -> nn.ModuleDict:
        """Runs all steps that are left and returns the networks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start = self._resume()
        began = time.perf_counter()
        for step, examples in enumerate(self._loader(start), start=start):
            self._progress.tick()
            if self._progress.is_over(step):
                break
            entry = self._step(step, examples.to(self.model.device))
            entry["seconds"] = round(time.perf_counter() - began, 1)
            done = step + 1
            if done % self.settings.evaluate_every == 0 or done == self.settings.steps:
                entry |= self.evaluate()
            self._log(entry)
            if done % self.settings.save_every == 0 or done == self.settings.steps:
                self._save(done)
        return self.networks.eval()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Reward of each way to choose over random choice, on held-out prompts, in nats.

        Returns:
            By source ("text", "questions") and policy the mean over prompts, under "... error"
            its standard error. "recent" and "rare" expand the last chunks and those of rare tokens.
        """
        found: dict[str, list[Tensor]] = {}
        for step in range(self.settings.evaluation_batches):
            examples = self.validation[step].to(self.model.device)
            prompts, seen = self._observe(examples)
            scores = {name: network(seen) for name, network in self.networks.items()}
            source = "text" if examples.passage_chunks else "questions"
            scores |= _baselines(seen, self._rarity, with_question=source == "questions")
            counts = _counts(prompts.present, examples.expanded)
            chosen = [
                picks_to_mask(_best(score, counts), prompts.present.shape[1]).unsqueeze(1)
                for score in scores.values()
            ]
            unused = self.settings.steps + step  # no training step draws with it
            random = self._random_choice(prompts.present, counts, _RANDOM_CHOICES, unused)
            gained = self._rewards(prompts, torch.cat([*chosen, random], dim=1))
            over = gained - gained[:, len(scores) :].mean(dim=1, keepdim=True)
            for i, name in enumerate(scores):
                found.setdefault(f"{source} {name}", []).append(over[:, i])
        results = {}
        for name, parts in found.items():
            values = torch.cat(parts)
            results[name] = round(values.mean().item(), 5)
            results[f"{name} error"] = round((values.std() / len(values) ** 0.5).item(), 5)
        return results

    # -- one step -------------------------------------------------------------------------------

    def _step(self, step: int, examples: PolicyExamples) -> dict[str, Any]:
        at = self._progress.at(step)
        rate = self.settings.learning_rate * _schedule(at, self.settings.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        prompts, seen = self._observe(examples)
        counts = _counts(prompts.present, examples.expanded)
        warming_up = at < self.settings.warm_up
        if not warming_up:
            found = self._reinforce(step, prompts, seen, counts)
        elif examples.evidence is None:
            found = self._fit_gains(step, prompts, seen, counts)
        else:
            found = self._fit_evidence(examples.evidence, seen)
        return {
            "step": step + 1,
            "phase": "warm-up" if warming_up else "grpo",
            "source": "text" if examples.passage_chunks else "questions",
            "chunk_size": examples.chunk_size,
            "expanded": examples.expanded,
            **found,
        }

    def _fit_evidence(self, wanted: Tensor, seen: Observation) -> dict[str, float]:
        """Ours: teaches both networks where answers stand."""
        return self._fit(lambda network: evidence_loss(network(seen), wanted))

    def _fit_gains(
        self, step: int, prompts: EncodedPrompts, seen: Observation, counts: Tensor
    ) -> dict[str, float]:
        """Ours: fits both networks to the rewards of the same random choices."""
        choices = self._random_choice(prompts.present, counts, self.settings.samples, step)
        gained = self._rewards(prompts, choices)
        advantages = group_advantages(gained)
        # Of this loss 1 is no better than chance.
        return _summary(gained) | self._fit(
            lambda network: gain_loss(network(seen), choices, prompts.present, advantages)
        )

    def _fit(self, loss: Callable[[nn.Module], Tensor]) -> dict[str, float]:
        """Makes the updates; returns the losses before any of these examples was learned from."""
        entry: dict[str, float] = {}
        for _ in range(self.settings.updates):
            losses = {name: loss(network) for name, network in self.networks.items()}
            entry = entry or {f"{name} loss": value.item() for name, value in losses.items()}
            self._update(torch.stack([*losses.values()]).sum())
        return entry

    def _reinforce(
        self, step: int, prompts: EncodedPrompts, seen: Observation, counts: Tensor
    ) -> dict[str, float]:
        """The paper's: each network learns from the rewards of its own picks."""
        entry: dict[str, float] = {}
        for name, network in self.networks.items():
            with torch.no_grad():
                old = network(seen)
                picks = sample_picks(old, counts, self.settings.samples, self._generator(step))
                old_log_probs = pick_log_probs(old, picks)
            gained = self._rewards(prompts, picks_to_mask(picks, old.shape[1]))
            advantages = group_advantages(gained)
            entry |= {f"{name} {key}": value for key, value in _summary(gained).items()}
            for _ in range(self.settings.updates):
                log_probs = pick_log_probs(network(seen), picks)
                objective = clipped_objective(
                    log_probs, old_log_probs, advantages, picks, self.settings.clip
                )
                self._update(-objective)
        return entry

    def _update(self, loss: Tensor) -> None:
        self._optimiser.zero_grad(set_to_none=True)  # a network that did not take part stays put
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self._optimiser.step()

    def _observe(self, examples: PolicyExamples) -> tuple[EncodedPrompts, Observation]:
        prompts = encode_prompts(self.model, examples.batch)
        return prompts, observe_examples(self.model, examples, prompts)

    def _rewards(self, prompts: EncodedPrompts, expanded: Tensor) -> Tensor:
        return rewards(self.model, prompts, expanded, positions=self.settings.positions)

    def _random_choice(self, present: Tensor, counts: Tensor, samples: int, step: int) -> Tensor:
        picks = sample_picks(uniform_logits(present), counts, samples, self._generator(step))
        return picks_to_mask(picks, present.shape[1])

    def _generator(self, step: int) -> torch.Generator:
        generator = torch.Generator(self.model.device)
        return generator.manual_seed((self.batches.seed << 32) + step)

    # -- data, log and state --------------------------------------------------------------------

    def _loader(self, start: int) -> DataLoader[PolicyExamples]:
        on_cuda = self.model.device.type == "cuda"
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(start, len(self.batches)),
            num_workers=_WORKERS if on_cuda else 0,
            prefetch_factor=4 if on_cuda else None,
        )

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        if entry["step"] % 10 == 0 or entry["step"] == self.settings.steps:
            _logger.info("%s", json.dumps(entry))

    def _save(self, done: int) -> None:
        with new_state(self.folder, steps=done, elapsed=self._progress.elapsed) as scratch:
            save_file(self.networks.state_dict(), scratch / _NETWORKS)
            save_optimizer(self._optimiser, scratch / _OPTIMIZER)

    def _resume(self) -> int:
        """Loads the last state and returns the number of steps done; 0 without one."""
        remove_left_overs(self.folder)
        state = last_state(self.folder)
        done = 0
        if state is not None:
            done, self._progress.elapsed = state.steps, state.elapsed
            _logger.info("resuming policy from %s", state.name)
            self.networks.load_state_dict(load_file(state.folder / _NETWORKS))
            load_optimizer(self._optimiser, state.folder / _OPTIMIZER)
        log = self.folder / "log.jsonl"
        if log.exists():  # what was logged after the state will be logged again
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            log.write_text("".join(lines[:done]), encoding="utf-8")
        return done


def train_policies(
    checkpoint: str | Path,
    settings: PolicySettings,
    *,
    train: TokenisedCorpus,
    validation: TokenisedCorpus,
    questions: QuestionSet | None,
    folder: Path,
    seed: int,
) -> None:
    """Trains the policies of a checkpoint and writes it with them to ``folder/model``.

    Everything else in the checkpoint is copied as it is.

    Args:
        checkpoint: Name or folder; the model that gives the rewards.
        settings: Of the stage.
        train: Training text.
        validation: Held-out text.
        questions: For the settings' ``question_share``.
        folder: Where states, log and result go.
        seed: Of everything that is drawn.
    """
    source = checkpoint_folder(str(checkpoint))
    model = RefragModel.from_pretrained(source)
    batches, held_out = (
        PolicyBatches(corpus, settings, model, own_seed, questions)
        for corpus, own_seed in ((train, seed), (validation, seed + 1))
    )
    networks = PolicyTrainer(model, batches, folder, validation=held_out).train()
    with atomic_folder(folder / "model") as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)
        save_networks(dict(networks.items()), scratch / POLICY_FILE)


def _counts(present: Tensor, fraction: float) -> Tensor:
    """Picks of each prompt: the budget's rounding, but at least one where there is a chunk."""
    total = present.sum(dim=1)
    return (total * fraction).round().long().clamp(min=1).minimum(total)


def _best(scores: Tensor, counts: Tensor) -> Tensor:
    """The highest scores of each prompt, as picks; (prompts, largest count)."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    place = torch.arange(order.shape[1], device=order.device)
    return order.masked_fill(place >= counts.unsqueeze(1), -1)


def _baselines(seen: Observation, rarity: Tensor, *, with_question: bool) -> dict[str, Tensor]:
    floor = uniform_logits(seen.present)
    place = torch.arange(seen.present.shape[1], device=rarity.device)
    found = {
        "recent": place + floor,
        "rare": context_features(seen, rarity)[..., 0] + floor,
    }
    if with_question:
        features = question_features(seen, rarity)
        found["similarity"] = features[..., 0] + floor
        found["late-interaction"] = features[..., LATE_INTERACTION] + floor
    return found


def _summary(gained: Tensor) -> dict[str, float]:
    spread = gained.std(dim=1, correction=0).mean()
    return {"reward": round(gained.mean().item(), 5), "spread": round(spread.item(), 5)}


def _schedule(step: float, steps: int) -> float:
    """Share of the learning rate: 4 % linear warm-up, then a cosine to zero."""
    rising = (step + 1) / max(0.04 * steps, 1)
    return min(rising, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
