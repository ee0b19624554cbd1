from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refrag_components.exceptions import UnknownModelError, UnknownPolicyError
from refrag_components.generator import RefragGenerator, Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    DEFAULT_POLICY,
    LateInteractionPolicy,
    LearnedPolicy,
    LearnedQueryPolicy,
    PolicyInputs,
    SimilarityPolicy,
    make_policy,
)
from refrag_components.policies.learned import (
    LATE,
    NETWORKS,
    PER_TOKEN,
    POLICY_FILE,
    PolicyNetwork,
    observe,
    save_networks,
)
from refrag_components.policies.observation import (
    Observation,
    context_features,
    question_features,
)
from refrag_components.prompt import PassagePart, TextPart
from tests.tiny import TEXT

WIDTH = 24
VOCABULARY = 400


def network(name: str, seed: int = 0) -> PolicyNetwork:
    """A network whose scores are not all equal."""
    torch.manual_seed(seed)
    made = PolicyNetwork(WIDTH, torch.rand(VOCABULARY), sees_question=NETWORKS[name])
    for parameter in (made.head[1].weight, made.shortcut.weight):
        torch.nn.init.normal_(parameter)
    return made.eval()


@pytest.fixture(scope="module")
def trained_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with random policies in it."""
    folder = tmp_path_factory.mktemp("policies") / "trained"
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    for name in NETWORKS:
        model.policies[name] = network(name)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(trained_folder: Path) -> RefragModel:
    return RefragModel.from_pretrained(trained_folder, device="cpu")


@pytest.fixture
def inputs(trained: RefragModel) -> PolicyInputs:
    return PolicyInputs(trained.encode_passages(TEXT[:3]), "Where is the harbour?")


def random_observation(seed: int, chunks: list[int], questions: list[int], k: int) -> Observation:
    """Prompts with these numbers of chunks and of question chunks, padded."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, asked = len(chunks), max(chunks), max(questions)
    present = torch.arange(width) < torch.tensor(chunks).unsqueeze(1)
    used = torch.rand(rows, width, k, generator=generator) < 0.8
    used[..., 0] = True
    used &= present.unsqueeze(-1)
    question_used = torch.arange(asked) < torch.tensor(questions).unsqueeze(1)
    steps = torch.rand(rows, width, generator=generator) < 0.2
    return Observation(
        vectors=torch.randn(rows, width, WIDTH, generator=generator) * present.unsqueeze(-1),
        token_ids=torch.randint(VOCABULARY, used.shape, generator=generator) * used,
        used=used,
        passages=(steps.cumsum(1) - steps[:, :1].long()) * present,
        question_vectors=torch.randn(rows, asked, WIDTH, generator=generator)
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


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**16),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 4)), min_size=2, max_size=4),
    st.sampled_from([1, 4, 8]),
)
@example(4172, [(1, 0), (24, 0), (3, 2)], 8)  # late interaction scores all three chunks alike
def test_padding_changes_nothing(
    name: str, seed: int, sizes: list[tuple[int, int]], k: int
) -> None:
    chunks, questions = map(list, zip(*sizes, strict=True))
    seen = random_observation(seed, chunks, questions, k)
    with torch.no_grad():
        together = network(name)(seen)
        assert torch.isfinite(together).all()
        for row, (count, asked) in enumerate(sizes):
            single = network(name)(alone(seen, row, count, asked))
            torch.testing.assert_close(
                together[row : row + 1, :count], single, atol=1e-4, rtol=1e-4
            )


def test_a_new_network_starts_from_late_interaction(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(list(TEXT))
    width = tiny_model.encoder.width
    rarity = torch.rand(len(tiny_model.tokenizer))
    inputs = PolicyInputs(passages, "Where is the harbour?")
    expected = LateInteractionPolicy(tiny_model).scores(inputs)
    fresh = PolicyNetwork(width, rarity, sees_question=True)
    found = fresh(observe(tiny_model, inputs, inputs.question))[0].detach().numpy()
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), rtol=1e-4)
    # Where no question is seen it prefers no chunk.
    assert (fresh(observe(tiny_model, inputs, "")) == 0).all()
    alone = PolicyNetwork(width, rarity, sees_question=False)
    assert (alone(observe(tiny_model, inputs, inputs.question)) == 0).all()


def test_prompts_without_chunks_and_gradients_stay_finite() -> None:
    seen = random_observation(1, [5, 0, 3], [0, 0, 2], 4)
    for name in NETWORKS:
        made = network(name)
        made(seen)[seen.present].sum().backward()
        for parameter in made.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_thousands_of_chunks() -> None:
    seen = random_observation(2, [4000], [10], 4)
    with torch.inference_mode():
        scores = network("learned-query")(seen)
    assert torch.isfinite(scores).all()
    assert scores.std() > 0


def test_features_are_of_unit_size_and_see_what_heuristics_see(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages([TEXT[0], "", *TEXT[1:]])
    question = "Where does the harbour lie?"
    seen = observe(tiny_model, PolicyInputs(passages, question), question)
    rarity = torch.rand(VOCABULARY)
    features = question_features(seen, rarity)
    for policy, column in ((SimilarityPolicy, 0), (LateInteractionPolicy, 2)):
        expected = policy(tiny_model).scores(PolicyInputs(passages, question))
        np.testing.assert_allclose(features[0, :, column], expected, atol=1e-5)
    assert features.abs().max() < 5
    assert context_features(seen, rarity).abs().max() < 5


def test_counted_features_of_a_small_prompt(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT[:2])
    seen = observe(tiny_model, PolicyInputs(passages, ""), "")
    rarity = torch.linspace(0, 1, VOCABULARY)
    found = context_features(seen, rarity)[0].numpy()
    counts = [passage.n_chunks for passage in passages]
    in_passage = np.concatenate([np.arange(n) for n in counts])
    to_its_end = np.concatenate([np.arange(n)[::-1] for n in counts])
    np.testing.assert_allclose(np.expm1(4 * found[:, 5]), in_passage, atol=1e-3)
    np.testing.assert_allclose(np.expm1(4 * found[:, 6]), to_its_end, atol=1e-3)
    np.testing.assert_allclose(np.expm1(4 * found[:, 8]), np.arange(sum(counts))[::-1], atol=1e-3)
    first = passages[0].chunk_token_ids(0).tolist()
    np.testing.assert_allclose(found[0, :2], [rarity[first].mean(), rarity[first].max()], rtol=1e-5)
    assert (question_features(seen, rarity) == 0).all()


@pytest.mark.parametrize("policy", [LearnedPolicy, LearnedQueryPolicy])
def test_scores(policy: type[LearnedPolicy], trained: RefragModel, inputs: PolicyInputs) -> None:
    scores = policy(trained).scores(inputs)
    assert scores.shape == (inputs.n_chunks,)
    assert scores.dtype == np.float32
    assert len(set(scores.tolist())) > 1
    np.testing.assert_array_equal(scores, make_policy(policy.name, trained).scores(inputs))


def test_only_the_query_policy_sees_the_question(
    trained: RefragModel, inputs: PolicyInputs
) -> None:
    other = PolicyInputs(inputs.passages, "How high did the river rise?")
    blind, seeing = LearnedPolicy(trained), LearnedQueryPolicy(trained)
    np.testing.assert_array_equal(blind.scores(inputs), blind.scores(other))
    assert not np.array_equal(seeing.scores(inputs), seeing.scores(other))
    assert np.isfinite(seeing.scores(PolicyInputs(inputs.passages, " "))).all()


def test_what_is_left_of_a_budget_goes_to_the_surroundings_of_likely_chunks(
    trained: RefragModel, inputs: PolicyInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked = PolicyInputs(inputs.passages, "")  # late interaction says nothing
    counts = [passage.n_chunks for passage in inputs.passages]
    likely = counts[0] + 2  # in the second passage
    logits = torch.linspace(-1.0, -2.0, sum(counts))  # the first passage's come next
    logits[likely] = 3.0
    policies: dict[str, object] = trained.policies._modules  # type: ignore[assignment]
    monkeypatch.setitem(policies, "learned-query", lambda _, late: logits[None])
    scores = LearnedQueryPolicy(trained).scores(unasked)
    around = np.argsort(-scores, kind="stable")[:5]
    assert sorted(around) == list(range(likely - 2, likely + 3))
    away = PER_TOKEN * inputs.passages[1].chunk_size
    np.testing.assert_allclose(scores[around], 3.0 - away * np.array([0, 1, 1, 2, 2]), atol=1e-6)
    np.testing.assert_array_equal(scores[: counts[0]], logits[: counts[0]])  # none reaches over

    # A network that prefers none: what late interaction says is left.
    even = PolicyNetwork(WIDTH, torch.rand(VOCABULARY), sees_question=True)
    torch.nn.init.zeros_(even.shortcut.weight)
    monkeypatch.setitem(policies, "learned-query", even)
    late = LateInteractionPolicy(trained).scores(inputs)
    added = even(observe(trained, inputs, inputs.question), late=LATE).detach()[0]
    np.testing.assert_allclose(added, LATE * late, atol=1e-4)
    assert LearnedQueryPolicy(trained).scores(inputs).argmax() == late.argmax()


def test_what_is_trained_is_the_default_where_a_question_is_asked(
    trained: RefragModel, tiny_model: RefragModel
) -> None:
    assert isinstance(make_policy(DEFAULT_POLICY, trained), LearnedQueryPolicy)
    assert isinstance(make_policy(DEFAULT_POLICY, tiny_model), LateInteractionPolicy)
    assert RefragGenerator(trained).policy.name == "learned-query"


def test_a_checkpoint_carries_its_policies(
    trained: RefragModel, trained_folder: Path, tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    for name in NETWORKS:
        for entry, tensor in network(name).state_dict().items():
            kept = trained.policies[name].state_dict()[entry]
            torch.testing.assert_close(kept, tensor, atol=2e-3, rtol=2e-3)
    assert not any(parameter.requires_grad for parameter in trained.policies.parameters())
    assert trained.fingerprint == tiny_model.fingerprint
    again = RefragModel.for_training(trained_folder)
    np.testing.assert_allclose(
        LearnedPolicy(again).scores(inputs), LearnedPolicy(trained).scores(inputs), atol=1e-5
    )


def test_a_checkpoint_without_policies_says_what_to_do(
    tiny_model: RefragModel, tiny_folder: Path
) -> None:
    assert not (tiny_folder / POLICY_FILE).exists()
    with pytest.raises(UnknownPolicyError, match=r"no trained policy 'learned'.*--stage policy"):
        make_policy("learned", tiny_model)
    with pytest.raises(UnknownPolicyError, match="'late-interaction'"):
        RefragGenerator(tiny_model, policy="learned-query")


def test_a_damaged_or_foreign_file_is_refused(trained_folder: Path, tmp_path: Path) -> None:
    from refrag_components.policies.learned import load_networks

    path = tmp_path / POLICY_FILE
    path.write_bytes((trained_folder / POLICY_FILE).read_bytes()[:-100])
    with pytest.raises(UnknownModelError, match="damaged"):
        load_networks(path, WIDTH)
    with pytest.raises(UnknownModelError, match="another encoder"):
        load_networks(trained_folder / POLICY_FILE, WIDTH + 1)
    save_networks({"oracle": network("learned")}, path)
    with pytest.raises(UnknownModelError, match="oracle"):
        load_networks(path, WIDTH)


def test_answers_are_prepared_with_it(trained: RefragModel) -> None:
    generator = RefragGenerator(trained, policy="learned", budget=0.3)
    parts = (TextPart("Read:\n"), PassagePart(TEXT[0]), TextPart("\n"), PassagePart(TEXT[1]))
    request = Request(parts, "When was the harbour dug?")
    report = generator.prepare(request).report
    assert report.policy == "learned"
    assert 0 < report.expanded < report.chunks
    asked = Request(parts, request.question, policy="learned-query")
    assert generator.prepare(asked).report.policy == "learned-query"
