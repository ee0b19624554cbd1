"""What holds for the decoders of every family, and which are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout
from refrag_components.exceptions import RefragError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.decoder_call import DecoderCall
from refrag_components.prompts.parts import ControlPart, PassagePart
from tests.engines.contract import plain_answer, same
from tests.engines.families import REFUSED, SERVED, save_family
from tests.engines.layouts import every_other, plain_ids, prompt
from tests.tiny import TEXT

_TABLE = Version("5.24")  # of transformers, as the docs say
_DOCS = (Path(__file__).parents[2] / "docs" / "decoders.md").read_text("utf-8").splitlines()


def _model(folder: Path, name: str, encoder: Path) -> RefragModel:
    config = RefragConfig(
        decoder=str(save_family(folder / "decoder", name)),
        encoder=str(encoder),
        encoder_layers=1,
        chunk_size=4,
        max_chunk_size=4,
        rungs=(4, 8),
        token_mlp=0,
    )
    return RefragModel.from_base(config).eval()


@pytest.fixture(scope="module", params=SERVED)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(
    family: str, tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> RefragModel:
    try:
        return _model(tmp_path_factory.mktemp("family"), family, tiny_base[1])
    except RefragError as error:
        if Version(transformers.__version__) < _TABLE:
            pytest.skip(f"refused with an earlier transformers: {error}")
        raise


@pytest.fixture(scope="module")
def engine(model: RefragModel) -> TransformersEngine:
    return TransformersEngine(model, batch_size=4)


@pytest.fixture(scope="module")
def layouts(model: RefragModel) -> list[Layout]:
    """Prompts of one batch: with padding, chunk embeddings, and text alone."""
    return [
        prompt(model, TEXT[:3], True, "Answer:"),
        prompt(model, TEXT[2:], False, "What fell?"),
        prompt(model, TEXT[:2], every_other, "What rose?"),
        prompt(model, [], True, "What?"),
    ]


def test_expanding_everything_is_the_plain_decoder(
    model: RefragModel, engine: TransformersEngine, layouts: list[Layout]
) -> None:
    """Bit for bit, and so are the tokens of an answer."""
    ids = plain_ids(layouts[0])
    inputs = embed_layouts(model, layouts[:1])
    with torch.inference_mode():
        call = DecoderCall(model.decoder)
        plain = call(input_ids=torch.tensor([ids]), logits_to_keep=1)[0, -1]
    assert torch.equal(DecoderBatch(model, inputs).logits[0], plain)
    (output,) = engine.generate(layouts[:1], SamplingParams(max_tokens=12))
    assert list(output.token_ids) == plain_answer(model, ids, 12)


def test_a_batch_answers_as_each_alone_and_as_a_stream(
    engine: TransformersEngine, layouts: list[Layout]
) -> None:
    """Although the answers end at different steps, and some are sampled."""
    params = [
        SamplingParams(max_tokens=10),
        SamplingParams(max_tokens=3),
        SamplingParams(max_tokens=14, temperature=0.8, seed=3),
        SamplingParams(max_tokens=6, repetition_penalty=1.3),
    ]
    together = engine.generate(layouts, params)
    for layout, own, output in zip(layouts, params, together, strict=True):
        (alone,) = engine.generate([layout], own)
        assert same(alone, output)
        deltas = list(engine.stream(layout, own))
        assert "".join(delta.text for delta in deltas) == output.text
        assert tuple(i for delta in deltas for i in delta.token_ids) == output.token_ids


def test_padding_changes_no_logits(model: RefragModel, layouts: list[Layout]) -> None:
    """Before the first token, at each further one, and after others have left."""
    together = DecoderBatch(model, embed_layouts(model, layouts))
    alone = [DecoderBatch(model, embed_layouts(model, [layout])) for layout in layouts]
    left = list(range(len(layouts)))
    for token in (20, 21, 22, 23):
        for row, i in enumerate(left):
            torch.testing.assert_close(
                together.logits[row], alone[i].logits[0], atol=2e-3, rtol=2e-3
            )
            alone[i].step(torch.tensor([token]))
        together.step(torch.full((len(left),), token))
        if token == 21:
            together.keep(torch.tensor([3, 1]))
            left = [3, 1]


def test_scores_after_more_tokens_are_those_of_steps(
    model: RefragModel, layouts: list[Layout]
) -> None:
    batch = DecoderBatch(model, embed_layouts(model, layouts))
    rows, tokens = torch.tensor([2, 0]), torch.tensor([[20, 21, 22], [23, 24, 25]])
    before = batch.logits.clone()
    scores = batch.after(rows, tokens)
    assert torch.equal(batch.logits, before)
    batch.keep(rows)
    for i in range(tokens.shape[1]):
        batch.step(tokens[:, i])
        torch.testing.assert_close(batch.logits, scores[:, i], atol=2e-3, rtol=2e-3)


def test_stored_chunk_vectors_answer_as_fresh_ones(model: RefragModel) -> None:
    generator = RefragGenerator(model, policy="none", rest="compress")
    parts = (ControlPart("Read: "), *map(PassagePart, TEXT[:3]), ControlPart("\nAnswer:"))
    request = Request(parts, "What rose?")
    (fresh,) = generator.generate([request], SamplingParams(max_tokens=8))
    (stored,) = generator.generate([request], SamplingParams(max_tokens=8))
    assert fresh.report.cache_hits == 0
    assert stored.report.cache_hits == 3
    assert fresh.text == stored.text
    fresh_vectors = model.encode_passages(TEXT[:3])
    for text, vectors in zip(TEXT, fresh_vectors, strict=False):
        (alone,) = model.encode_passages([text])
        np.testing.assert_allclose(alone.vectors, vectors.vectors, atol=5e-3)


def test_untrained_chunk_embeddings_are_as_large_as_tokens(model: RefragModel) -> None:
    (vectors,) = model.encode_passages([TEXT[0]])
    with torch.inference_mode():
        chunks = model.chunk_embeddings([vectors])
        tokens = model.token_embeddings(np.arange(3, 400))
    assert 0.7 < float(chunks.square().mean().sqrt() / tokens.square().mean().sqrt()) < 1.4


def test_the_docs_say_how_it_is_decoded(
    family: str, model: RefragModel, layouts: list[Layout]
) -> None:
    embedding, ids = model.decoder.get_input_embeddings(), torch.arange(3, 9)
    scaled = not torch.equal(embedding(ids), embedding.weight[ids])
    batch = DecoderBatch(model, embed_layouts(model, layouts[:2]))
    kinds = {
        "keys and values": lambda layer: hasattr(layer, "keys") and not layer.is_sliding,
        "those of a window": lambda layer: getattr(layer, "is_sliding", False),
        "states": lambda layer: hasattr(layer, "conv_states"),
    }
    kept = [kind for kind, holds in kinds.items() if any(map(holds, batch._cache.layers))]
    cells = (
        family,
        f"`{model.decoder.config.model_type}`",
        "scaled" if scaled else "as stored",
        ", ".join(kept),
        "yes" if batch.can_join else "no",
    )
    assert f"| {' | '.join(cells)} |" in _DOCS


@pytest.mark.parametrize("name", REFUSED)
def test_a_decoder_that_cannot_read_chunk_embeddings_is_refused_by_name(
    name: str, tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    kind, _, why = REFUSED[name]
    with pytest.raises(RefragError, match=rf"^{kind[:4]}\w+ {re.escape(why)}.*another decoder"):
        _model(tmp_path, name, tiny_base[1])


def test_the_docs_name_the_refused_and_nobody_else() -> None:
    refused = {f"| {name} | {why} |" for name, (_, _, why) in REFUSED.items()}
    assert refused <= set(_DOCS)
    rows = [line for line in _DOCS if line.startswith("| ")]
    assert len(rows) == len(SERVED) + len(REFUSED) + 2  # their heads
