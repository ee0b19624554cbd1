"""From a collection of records, where chunk vectors are found with the passages, to the answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from llama_index.embeddings.refrag import ChunkVectorTransform, RefragEmbedding
from llama_index.llms.refrag import RefragLLM, collect_reports
from llama_index.postprocessor.refrag import KEY_METADATA, RefragNodePostprocessor
from llama_index.response_synthesizers.refrag import RefragQueryEngine
from llama_index.retrievers.refrag import RecordRetriever, RefragNode, RefragRetriever
from refrag_components.exceptions import CorruptVectorsError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.records import RecordCollection, make_records
from refrag_components.serving.app import create_app
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.integrations.conftest import Watch
from tests.integrations.guards import NoStore, no_encoding
from tests.integrations.llama_index.conftest import (
    HARBOUR,
    PASSAGES,
    PRICES,
    QUESTION,
    RAIN,
    ListRetriever,
)
from tests.integrations.llama_index.recording import Recording
from tests.serving.running import running

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local")

MINE = (
    "The mill of the first tenant grinds rye.",
    "The first tenant's miller is called Osk, like his father.",
)
THEIRS = (
    "The mill of the second tenant grinds oats.",
    "The second tenant's miller is called Ulf, like his uncle.",
)


@pytest.fixture
def model(folder: str) -> RefragModel:
    return load_checkpoint(folder).model


@pytest.fixture
def records(no_records: RecordCollection, model: RefragModel) -> RecordCollection:
    about = [{"page": number} for number in range(3)]
    no_records.put(list(make_records(model, PASSAGES, about, token_vectors=True)))
    return no_records


@pytest.fixture
def embed_model(folder: str) -> RefragEmbedding:
    return RefragEmbedding(model=folder)


@pytest.fixture
def search(records: RecordCollection, embed_model: RefragEmbedding) -> RecordRetriever:
    return RecordRetriever(records, embed_model, similarity_top_k=3)


@pytest.fixture
def guarded(folder: str, model: RefragModel, monkeypatch: pytest.MonkeyPatch) -> RefragLLM:
    """An LLM that can make no chunk vectors and must look none up."""
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    return RefragLLM(model=folder, max_tokens=8, store=NoStore())


def engine(search: Any, llm: RefragLLM, kind: str) -> RetrieverQueryEngine:
    if kind == "synthesizer":
        return RefragQueryEngine.from_args(search, llm=llm)
    if kind == "postprocessor":
        return RetrieverQueryEngine.from_args(
            search, llm=llm, node_postprocessors=[RefragNodePostprocessor()]
        )
    return RetrieverQueryEngine.from_args(RefragRetriever(search, store=NoStore()), llm=llm)


KINDS = ["synthesizer", "postprocessor", "retriever"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", [False, True])
def test_a_query_engine_needs_neither_encoder_nor_store(
    records: RecordCollection,
    embed_model: RefragEmbedding,
    guarded: RefragLLM,
    kind: str,
    late: bool,
) -> None:
    search = RecordRetriever(records, embed_model, similarity_top_k=3, late_interaction=late)
    with collect_reports() as reports:
        engine(search, guarded, kind).query(QUESTION)
    (report,) = reports
    assert (report["cache_hits"], report["cache_misses"]) == (3, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_query_engine_that_is_awaited(
    search: RecordRetriever, guarded: RefragLLM, kind: str
) -> None:
    with collect_reports() as reports:
        await engine(search, guarded, kind).aquery(QUESTION)
    (report,) = reports
    assert (report["cache_hits"], report["cache_misses"]) == (3, 0)


def test_the_answer_is_that_of_an_ordinary_retriever(
    search: RecordRetriever, llm: RefragLLM
) -> None:
    nodes = search.retrieve(QUESTION)
    plain = [
        NodeWithScore(node=each.node.model_copy(update={"chunk_vectors": None})) for each in nodes
    ]
    expected = RefragQueryEngine.from_args(search, llm=llm).synthesize(QueryBundle(QUESTION), plain)
    answer = RefragQueryEngine.from_args(search, llm=llm).query(QUESTION)
    assert str(answer) == str(expected)
    assert (expected.metadata or {})["refrag"]["cache_misses"] == 3
    assert (answer.metadata or {})["refrag"]["cache_hits"] == 3


async def test_searching_does_not_block_the_event_loop(
    records: RecordCollection, embed_model: RefragEmbedding, watch: Watch
) -> None:
    watch(type(records), "search")
    watch(RefragModel, "search_vector")
    watch(RefragModel, "search_token_vectors")
    search = RecordRetriever(records, embed_model, late_interaction=True)
    assert len(await search.aretrieve(QUESTION)) == 3
    assert {*watch.ran} == {"search", "search_vector", "search_token_vectors"}
    assert not any(own for ran in watch.ran.values() for own in ran)


def test_steps_by_hand(search: RecordRetriever, guarded: RefragLLM, folder: str) -> None:
    nodes = RefragRetriever(search).retrieve(QUESTION)
    text = "\n\n".join(each.text for each in nodes)
    own = RefragLLM(model=folder, max_tokens=8)
    found = own.complete(f"Context:\n{text}\n\nQuestion: {QUESTION}")
    assert found.raw["refrag"]["cache_hits"] == 3  # type: ignore[index]
    passed = guarded.complete(QUESTION, documents=search.retrieve(QUESTION))
    assert passed.raw["refrag"]["cache_hits"] == 3  # type: ignore[index]
    bare = guarded.complete(QUESTION, documents=[each.node for each in search.retrieve(QUESTION)])
    assert bare.raw["refrag"]["cache_hits"] == 3  # type: ignore[index]


def test_a_server_gets_the_chunk_vectors(
    search: RecordRetriever, llm: RefragLLM, model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = RefragGenerator(model)
    expected = str(RefragQueryEngine.from_args(search, llm=llm).query(QUESTION))
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    with running(create_app(served, name="tiny", tokens=["secret"])) as url:
        remote = RefragLLM(model="tiny", base_url=url, api_key="secret", max_tokens=llm.max_tokens)
        answer = RefragQueryEngine.from_args(search, llm=remote).query(QUESTION)
    assert str(answer) == expected
    assert (answer.metadata or {})["refrag"]["cache_hits"] == 3


def test_nodes_are_as_they_were_stored(search: RecordRetriever, model: RefragModel) -> None:
    nodes = search.retrieve(QUESTION)
    assert sorted(each.text for each in nodes) == sorted(PASSAGES)
    assert [each.score for each in nodes] == sorted((each.score for each in nodes), reverse=True)
    for each in nodes:
        assert isinstance(each.node, RefragNode)
        assert each.node.chunk_vectors is not None
        assert each.node.metadata == {
            "page": PASSAGES.index(each.text),
            KEY_METADATA: passage_key(each.text, model.fingerprint),
        }
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert KEY_METADATA not in each.node.get_content(metadata_mode=mode)


def test_a_query_that_brings_its_embedding_is_not_embedded(
    records: RecordCollection, model: RefragModel
) -> None:
    search = RecordRetriever(records, MockEmbedding(embed_dim=1), similarity_top_k=1)
    vector = model.search_vector(RAIN).tolist()
    (found,) = search.retrieve(QueryBundle("Whatever.", embedding=vector))
    assert found.text == RAIN


def test_any_embeddings_search_by_one_vector(
    no_records: RecordCollection, model: RefragModel
) -> None:
    embed_model = MockEmbedding(embed_dim=12)
    vector = np.array(embed_model.get_text_embedding(RAIN))
    no_records.put(
        [
            type(each)(each.text, vector, each.chunk_vectors)
            for each in make_records(model, PASSAGES)
        ]
    )
    assert len(RecordRetriever(no_records, embed_model).retrieve(RAIN)) == 3
    with pytest.raises(ValueError, match="embed tokens"):
        RecordRetriever(no_records, embed_model, late_interaction=True)


@pytest.mark.parametrize("name", ["similarity_top_k", "candidates"])
@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_1_are_refused(embed_model: RefragEmbedding, name: str, number: int) -> None:
    never: Any = None  # asked
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {number}"):
        RecordRetriever(never, embed_model, **{name: number})  # type: ignore[arg-type]


class TestTraces(Recording):
    """Chunk vectors are in nothing that LlamaIndex shows, sends or stores."""

    @pytest.fixture
    def spans(self) -> Iterator[list[str]]:
        """What every span of the test was given and returned."""
        shown: list[str] = []

        class Handler(BaseSpanHandler[SimpleSpan]):
            @classmethod
            def class_name(cls) -> str:
                return "Spans"

            def new_span(self, id_: str, bound_args: inspect.BoundArguments, **_: Any) -> None:  # type: ignore[override]
                shown.extend(map(repr, bound_args.arguments.values()))

            def prepare_to_exit_span(self, id_: str, result: Any = None, **_: Any) -> None:  # type: ignore[override]
                shown.append(repr(result))

            def prepare_to_drop_span(self, id_: str, **_: Any) -> None:  # type: ignore[override]
                pass

        dispatcher = get_dispatcher()
        before, handler = list(dispatcher.span_handlers), Handler()
        dispatcher.add_span_handler(handler)
        yield shown
        dispatcher.span_handlers = before

    @pytest.mark.parametrize("kind", KINDS)
    async def test_vectors_are_in_no_event_and_in_no_span(
        self,
        search: RecordRetriever,
        llm: RefragLLM,
        events: list[BaseEvent],
        spans: list[str],
        kind: str,
    ) -> None:
        queries = engine(search, llm, kind)
        queries.query(QUESTION)
        await queries.aquery(QUESTION)
        assert {"RetrievalEndEvent", "QueryEndEvent"} <= {each.class_name() for each in events}
        shown = [*spans, *(repr(event) for event in events)]
        shown += [str(event.model_dump()) for event in events]
        assert any(HARBOUR in each for each in spans)
        assert any(HARBOUR in each for each in shown[len(spans) :])
        for each in shown:
            assert "chunk_vectors" not in each
            assert "ChunkVectors" not in each


def test_what_is_damaged_is_encoded_again(
    search: RecordRetriever, llm: RefragLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise CorruptVectorsError("it is damaged")

    for reader in ("qdrant.read_point", "postgres.unpack_row"):
        monkeypatch.setattr(f"refrag_components.records.{reader}", damaged)
    answer = RefragQueryEngine.from_args(search, llm=llm).query(QUESTION)
    report = (answer.metadata or {})["refrag"]
    assert (report["cache_hits"], report["cache_misses"]) == (0, 3)


class Shorten(BaseNodePostprocessor):
    """Changes the texts, and leaves keys and chunk vectors to the nodes."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        for each in nodes:
            each.node.set_content(each.text[:40])
        return nodes


class Shortened(BaseRetriever):
    """As ``Shorten``, of another retriever."""

    def __init__(self, search: BaseRetriever) -> None:
        super().__init__()
        self.search = search

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return Shorten().postprocess_nodes(self.search.retrieve(query_bundle))


@pytest.mark.parametrize("kind", ["llm", "postprocessor", "retriever"])
def test_vectors_do_not_follow_a_text_that_was_changed(
    search: RecordRetriever, llm: RefragLLM, folder: str, model: RefragModel, kind: str
) -> None:
    store = MemoryStore()
    after: list[BaseNodePostprocessor] = []
    found: BaseRetriever = Shortened(search)
    if kind == "llm":
        llm = llm.model_copy(update={"store": store})
    elif kind == "postprocessor":
        after = [RefragNodePostprocessor(model=folder, store=store)]
    else:
        found = RefragRetriever(found, model=folder, store=store)
    answer = RefragQueryEngine.from_args(found, llm=llm, node_postprocessors=after).query(QUESTION)
    report = (answer.metadata or {})["refrag"]
    made = (0, 3) if kind == "llm" else (3, 0)  # before the model reads them
    assert (report["cache_hits"], report["cache_misses"]) == made
    keys = {passage_key(text[:40].strip(), model.fingerprint) for text in PASSAGES}
    assert set(store.yield_keys()) == keys
    if kind != "llm":
        assert {each.node.metadata[KEY_METADATA] for each in answer.source_nodes} == keys
        assert all(each.node.chunk_vectors is None for each in answer.source_nodes)  # type: ignore[attr-defined]


def test_a_model_makes_only_what_nodes_do_not_carry(
    search: RecordRetriever, guarded: RefragLLM, folder: str
) -> None:
    retriever = RefragRetriever(search, model=folder, store=NoStore())
    answer = RetrieverQueryEngine.from_args(retriever, llm=guarded)
    with collect_reports() as reports:
        answer.query(QUESTION)
    assert reports[0]["cache_hits"] == 3


def test_what_another_model_made_goes_into_the_store(
    search: RecordRetriever, folder: str, model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = search.retrieve(QUESTION)
    store = MemoryStore()
    monkeypatch.setattr(model, "fingerprint", "another")
    postprocessor = RefragNodePostprocessor(model=folder, store=store)
    found = postprocessor.postprocess_nodes(nodes, query_str=QUESTION)
    keys = {each.node.metadata[KEY_METADATA] for each in found}
    assert keys == {passage_key(text, "another") for text in PASSAGES}
    assert set(store.yield_keys()) == keys
    assert all(each.node.chunk_vectors is None for each in found)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [*KINDS, "documents"])
def test_what_another_model_made_is_made_once_for_the_one_that_answers(
    search: RecordRetriever,
    llm: RefragLLM,
    model: RefragModel,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    store = MemoryStore()
    reader = RefragLLM(model=llm.model, max_tokens=8, store=store)
    found = search.retrieve(QUESTION)
    retriever = ListRetriever(found)
    wrapped = RefragRetriever(retriever, store=store) if kind == "retriever" else retriever
    monkeypatch.setattr(model, "fingerprint", "another")
    with collect_reports() as reports:
        for _ in range(2):
            if kind == "documents":
                reader.complete(QUESTION, documents=found)
            elif kind == "retriever":
                RetrieverQueryEngine.from_args(wrapped, llm=reader).query(QUESTION)
            else:
                engine(retriever, reader, kind).query(QUESTION)
    counts = [(report["cache_hits"], report["cache_misses"]) for report in reports]
    assert counts == [(0, 3), (3, 0)]
    assert set(store.yield_keys()) == {passage_key(text, "another") for text in PASSAGES}


@pytest.mark.parametrize("is_changed", [False, True])
def test_ingestion_stores_what_nodes_carry(
    search: RecordRetriever,
    folder: str,
    model: RefragModel,
    monkeypatch: pytest.MonkeyPatch,
    is_changed: bool,
) -> None:
    nodes = [each.node for each in search.retrieve(QUESTION)]
    store = MemoryStore()
    if is_changed:
        nodes[0].set_content("Something else.")
    else:
        monkeypatch.setattr(model, "encode_passages", no_encoding)
    made = ChunkVectorTransform(model=folder, store=store)(nodes)
    keys = [passage_key(node.get_content(), model.fingerprint) for node in nodes]
    assert [node.metadata[KEY_METADATA] for node in made] == keys
    assert set(store.yield_keys()) == set(keys)
    carried = [node.chunk_vectors for node in nodes[1:]]  # type: ignore[attr-defined]
    assert store.mget(keys[1:]) == carried


class TestTenants:
    @pytest.fixture
    def searches(
        self, no_records: RecordCollection, embed_model: RefragEmbedding, model: RefragModel
    ) -> tuple[RecordRetriever, RecordRetriever]:
        """Those of two tenants in one collection, which ask for all that there is."""
        mine, theirs = no_records.for_tenant("one"), no_records.for_tenant("other")
        for own, texts in ((mine, MINE), (theirs, THEIRS)):
            own.put(list(make_records(model, texts, token_vectors=True)))
        first, second = (
            RecordRetriever(own, embed_model, similarity_top_k=50, late_interaction=late)
            for own, late in ((mine, False), (theirs, True))
        )
        return first, second

    def test_neither_finds_what_is_the_other_s(
        self, searches: tuple[RecordRetriever, RecordRetriever]
    ) -> None:
        for query in (*MINE, *THEIRS, "' OR '1'='1", QUESTION):
            for search, own in zip(searches, (MINE, THEIRS), strict=True):
                assert {each.text for each in search.retrieve(query)} == {*own}

    async def test_nor_do_they_when_both_ask_at_the_same_time(
        self,
        searches: tuple[RecordRetriever, RecordRetriever],
        folder: str,
        guarded: RefragLLM,
    ) -> None:
        engines = [RefragQueryEngine.from_args(search, llm=guarded) for search in searches]
        asked = [number % 2 for number in range(12)]
        answers = await asyncio.gather(
            *(engines[who].aquery(f"Who says so? {(THEIRS, MINE)[who][1]}") for who in asked)
        )
        for who, answer in zip(asked, answers, strict=True):
            assert {node.text for node in answer.source_nodes} == {*(MINE, THEIRS)[who]}
            report = (answer.metadata or {})["refrag"]
            assert (report["cache_hits"], report["cache_misses"]) == (2, 0)

    def test_what_one_has_retrieved_is_text_in_the_other_s_prompt(
        self, searches: tuple[RecordRetriever, RecordRetriever], guarded: RefragLLM
    ) -> None:
        mine, theirs = searches
        RefragQueryEngine.from_args(theirs, llm=guarded).query(QUESTION)
        mine_only = RefragQueryEngine.from_args(mine, llm=guarded)
        answer = mine_only.query(f"{QUESTION} {THEIRS[0]}")
        report = (answer.metadata or {})["refrag"]
        assert (report["cache_hits"], report["cache_misses"]) == (2, 0)

    def test_a_forged_key_brings_nobody_s_vectors(
        self, searches: tuple[RecordRetriever, RecordRetriever], llm: RefragLLM
    ) -> None:
        found = searches[1].retrieve(THEIRS[0])[0].node
        assert isinstance(found, RefragNode)
        forged = RefragNode(
            text=MINE[0], metadata=found.metadata, chunk_vectors=found.chunk_vectors
        )
        only_key = RefragNode(text=MINE[1], metadata=found.metadata)
        answer = llm.complete(QUESTION, documents=[forged, only_key])
        report = answer.raw["refrag"]  # type: ignore[index]
        assert (report["cache_hits"], report["cache_misses"]) == (0, 2)

    def test_one_cannot_delete_the_other_s(
        self,
        searches: tuple[RecordRetriever, RecordRetriever],
        no_records: RecordCollection,
        model: RefragModel,
    ) -> None:
        keys = [passage_key(text, model.fingerprint) for text in THEIRS]
        no_records.for_tenant("one").delete(keys)
        assert {each.text for each in searches[1].retrieve(QUESTION)} == {*THEIRS}


def test_a_search_by_tokens_orders_what_one_vector_finds(
    records: RecordCollection, embed_model: RefragEmbedding
) -> None:
    search = RecordRetriever(
        records, embed_model, similarity_top_k=1, late_interaction=True, candidates=3
    )
    for text in (HARBOUR, PRICES):
        (found,) = search.retrieve(text)
        assert found.text == text
        assert found.score == pytest.approx(1, abs=0.01)
