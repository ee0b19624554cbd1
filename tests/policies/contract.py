"""What every policy must do, as tests to inherit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from refrag_components.generation.choosing import Chunks, choose
from refrag_components.modeling import RefragModel
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import (
    FractionBudget,
    Policy,
    PolicyInputs,
    PositionBudget,
    make_policy,
    select,
)
from tests.tiny import TEXT

QUESTION = "Where is the harbour?"


class PolicyContract:
    """Inherit it and name a policy.

    Attributes:
        name: The policy's.
        keeps_order: Passages in another order give the same scores in that order.
        each_alone: What other passages there are makes no difference to a passage's scores.
        depends_on_question: Another question gives other scores.
        share: Fraction of the chunks that expand whatever the budget; None if it keeps to it.
    """

    name: ClassVar[str]
    keeps_order: ClassVar[bool]
    each_alone: ClassVar[bool]
    depends_on_question: ClassVar[bool]
    share: ClassVar[float | None] = None

    @pytest.fixture
    def model(self, trained: RefragModel) -> RefragModel:
        return trained

    def made(self, model: RefragModel) -> Policy:
        """A new one; those that have no name in ``POLICIES`` are made in another way."""
        return make_policy(self.name, model)

    @pytest.fixture
    def policy(self, model: RefragModel) -> Policy:
        return self.made(model)

    @pytest.fixture
    def inputs(self, model: RefragModel) -> PolicyInputs:
        """Passages of different lengths, one of them empty."""
        texts = [TEXT[0], "", *TEXT[1:], TEXT[0]]
        return PolicyInputs(model.encode_passages(texts), *model.encode_questions([QUESTION]))

    def test_its_name_makes_it(self, policy: Policy, model: RefragModel) -> None:
        assert policy.name == self.name
        assert make_policy(policy, model) is policy
        assert policy.revision >= 1

    def test_one_finite_score_per_chunk(self, policy: Policy, inputs: PolicyInputs) -> None:
        scores = policy.scores(inputs)
        assert scores.shape == (inputs.n_chunks,)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_the_same_inputs_score_the_same(
        self, policy: Policy, model: RefragModel, inputs: PolicyInputs
    ) -> None:
        scores = policy.scores(inputs)
        with ThreadPoolExecutor(4) as pool:
            for again in pool.map(policy.scores, [inputs] * 8):
                np.testing.assert_array_equal(again, scores)
        np.testing.assert_array_equal(self.made(model).scores(inputs), scores)

    def test_inputs_are_left_as_they_are(self, policy: Policy, inputs: PolicyInputs) -> None:
        before = [(own.vectors.copy(), own.token_ids.copy()) for own in inputs.passages]
        asked = inputs.question.vectors.copy()
        policy.scores(inputs)
        for own, (vectors, token_ids) in zip(inputs.passages, before, strict=True):
            np.testing.assert_array_equal(own.vectors, vectors)
            np.testing.assert_array_equal(own.token_ids, token_ids)
        np.testing.assert_array_equal(inputs.question.vectors, asked)

    def test_empty_passages_make_no_difference(
        self, policy: Policy, model: RefragModel, inputs: PolicyInputs
    ) -> None:
        (empty,) = model.encode_passages([""])
        full = [own for own in inputs.passages if own.n_chunks]
        scores = policy.scores(PolicyInputs(full, inputs.question))
        around = PolicyInputs([empty, *full, empty], inputs.question)
        np.testing.assert_array_equal(policy.scores(around), scores)

    def test_other_passages_do_what_is_promised(self, policy: Policy, inputs: PolicyInputs) -> None:
        passages = list(inputs.passages)
        ends = np.cumsum([own.n_chunks for own in passages])[:-1]
        scores = np.split(policy.scores(inputs), ends)
        if self.keeps_order:
            backwards = policy.scores(PolicyInputs(passages[::-1], inputs.question))
            np.testing.assert_allclose(backwards, np.concatenate(scores[::-1]), atol=1e-5)
        if self.each_alone:
            for own, expected in zip(passages, scores, strict=True):
                if own.n_chunks:
                    alone = policy.scores(PolicyInputs([own], inputs.question))
                    np.testing.assert_allclose(alone, expected, atol=1e-5)

    def test_it_sees_the_question_or_does_not(
        self, policy: Policy, model: RefragModel, inputs: PolicyInputs
    ) -> None:
        (other,) = model.encode_questions(["How high did the river rise?"])
        asked, differently = (
            policy.scores(PolicyInputs(inputs.passages, question))
            for question in (inputs.question, other)
        )
        assert np.array_equal(asked, differently) != self.depends_on_question
        blank = policy.scores(PolicyInputs(inputs.passages, inputs.question.blanked))
        assert blank.shape == asked.shape
        assert np.isfinite(blank).all()

    def test_it_says_whether_the_question_has_to_be_encoded(
        self, policy: Policy, inputs: PolicyInputs
    ) -> None:
        question = inputs.question
        unencoded = EncodedQuestion.unencoded(question.text, question.vectors.shape[1])
        scores = policy.scores(PolicyInputs(inputs.passages, unencoded))
        assert np.array_equal(scores, policy.scores(inputs)) != policy.reads_question

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_it_fills_its_budget(self, policy: Policy, inputs: PolicyInputs, share: float) -> None:
        budget = policy.budget(FractionBudget(share))
        assert isinstance(budget, FractionBudget)
        expanded = select(policy.scores(inputs), budget)
        kept_to = share if self.share is None else self.share
        assert expanded.sum() == round(kept_to * inputs.n_chunks)

    def test_positions_hold_what_expands(self, policy: Policy, inputs: PolicyInputs) -> None:
        counts = np.array([own.n_chunks for own in inputs.passages])
        lengths = np.concatenate([own.chunk_lengths for own in inputs.passages])
        chunks = Chunks(counts, lengths, (inputs.passages[0].chunk_size,))
        asked = PositionBudget(2 * len(lengths) + 10)
        budget = policy.budget(asked)
        choice = choose(policy.scores(inputs), chunks, budget, "compress", 10_000)
        if self.share is None:
            assert len(lengths) < chunks.positions(choice) <= asked.positions
        else:
            assert choice.expanded.mean() == self.share
