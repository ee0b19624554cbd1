"""vLLM itself, on a CPU: ``make test-vllm``. Everywhere else this file is skipped."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.engines.vllm_decoder import export_decoder
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import (
    EngineError,
    InvalidVectorsError,
    SamplingError,
    ServerError,
)
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER, layers_at_chunks
from refrag_components.modeling.config import RefragConfig
from refrag_components.vectors import ChunkVectors
from tests.adapters import attach_adapters
from tests.engines.contract import EngineContract, same
from tests.engines.layouts import every_other, prompt, token_ids
from tests.tiny import TEXT, save_tiny_decoder, save_tiny_encoder, tiny_decoder_config

pytestmark = pytest.mark.timeout(900)  # starting takes minutes on a machine that has other work

_STARTING = 600.0  # seconds
_OPTIONS: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": 8, "block_size": 32}


@pytest.fixture(scope="module", autouse=True)
def small_vllm() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose heads are as wide as vLLM's attention on a CPU needs them."""
    root = tmp_path_factory.mktemp("vllm")
    shape = tiny_decoder_config(hidden_size=64, num_attention_heads=2)
    decoder = save_tiny_decoder(root / "llama", shape)
    encoder = save_tiny_encoder(root / "bert")
    torch.manual_seed(0)
    config = RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    model = RefragModel.from_base(config)
    torch.nn.init.normal_(model.projector.out.weight, std=0.2)  # zero before training
    model.save_pretrained(root / "tiny")
    return root / "tiny"


@pytest.fixture(scope="module")
def adapted_folder(folder: Path) -> Path:
    """The same with an adapter at chunk embeddings only, as the bundled checkpoint has it."""
    model = RefragModel.from_pretrained(folder, device="cpu")
    attach_adapters(model)
    model.save_pretrained(folder.parent / "adapted")
    return folder.parent / "adapted"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> RefragModel:
    return load_checkpoint(str(folder), "cpu").model


@pytest.fixture(scope="module")
def adapted(adapted_folder: Path) -> RefragModel:
    return load_checkpoint(str(adapted_folder), "cpu").model


@pytest.fixture(scope="module")
def prompts(loaded: RefragModel) -> list[Layout]:
    return prompts_of(loaded)


@pytest.fixture(scope="module")
def expected(loaded: RefragModel, prompts: list[Layout]) -> list[tuple[int, ...]]:
    """What the default engine answers."""
    outputs = TransformersEngine(loaded).generate(prompts, SamplingParams(max_tokens=40))
    return [output.token_ids for output in outputs]


def prompts_of(model: RefragModel) -> list[Layout]:
    """Prompts of different lengths: plain, compressed, mixed, long, and without any passage."""
    return [
        prompt(model, TEXT[:3], True, "Answer:"),
        prompt(model, TEXT[:4], False, "What rose?"),
        prompt(model, TEXT[2:], every_other, "What fell?"),
        prompt(model, [*TEXT, *TEXT], every_other, "What?"),
        prompt(model, [], True, "What?"),
    ]


class TestInProcess(EngineContract):
    warm = 2.0
    tells_likelihoods = False

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, loaded: RefragModel) -> Iterator[VllmEngine]:
        engine = VllmEngine(loaded, options=_OPTIONS)
        yield engine
        engine.close()

    @pytest.fixture
    def engine(self, shared: VllmEngine) -> VllmEngine:
        return shared

    @pytest.fixture
    def model(self, loaded: RefragModel) -> RefragModel:
        return loaded

    def test_greedy_tokens_are_the_default_engines(
        self, model: RefragModel, engine: VllmEngine, prompts: list[Layout], expected: Any
    ) -> None:
        outputs = engine.generate(prompts, SamplingParams(max_tokens=40))
        assert [output.token_ids for output in outputs] == expected
        params = SamplingParams(max_tokens=40, repetition_penalty=1.5)
        default = TransformersEngine(model).generate(prompts, params)
        assert all(map(same, engine.generate(prompts, params), default))
        assert [output.token_ids for output in default] != expected

    def test_seeds_reproduce(self, engine: VllmEngine, prompts: list[Layout]) -> None:
        params = SamplingParams(max_tokens=20, temperature=1.0, seed=11)
        rows = engine.generate([prompts[1]] * 3, params)
        assert len({row.token_ids for row in rows}) == 3
        again = engine.generate([prompts[1]] * 3, params)
        assert all(same(a, b) for a, b in zip(rows, again, strict=True))

    def test_stop_strings(
        self, model: RefragModel, engine: VllmEngine, prompts: list[Layout]
    ) -> None:
        (plain,) = TransformersEngine(model).generate([prompts[2]], SamplingParams(max_tokens=40))
        stop = plain.text[len(plain.text) // 2 :][:2]
        params = SamplingParams(max_tokens=40, stop=stop)
        (default,) = TransformersEngine(model).generate([prompts[2]], params)
        assert same(engine.generate([prompts[2]], params)[0], default)
        assert default.finish_reason == "stop"

    def test_the_prefix_cache_serves_one_tenant(
        self, engine: VllmEngine, prompts: list[Layout], expected: Any
    ) -> None:
        cached = _cached_positions(engine)
        params = SamplingParams(max_tokens=40)
        first, second = engine.for_tenant("first"), engine.for_tenant("second")
        for tenant, hits in ((first, False), (first, True), (second, False), (engine, True)):
            (output,) = tenant.generate([prompts[3]], params)
            assert output.token_ids == expected[3]
            assert (cached[-1] > 0) == hits

    def test_prompts_that_differ_in_their_mask_alone(
        self, model: RefragModel, engine: VllmEngine
    ) -> None:
        """vLLM's cache does not know which positions are embeddings (its issue 56655)."""
        passage = np.zeros(64, np.int64)  # token 0, as vLLM counts an embedding
        vectors = model.encode_passages([TEXT[1] * 8])[0]
        tail = TextSegment(token_ids(model, "What?"))
        head = TextSegment(token_ids(model, "Read: "))
        compressed = Layout((head, PassageSegment(vectors, np.zeros(vectors.n_chunks, bool)), tail))
        spelled = Layout((head, TextSegment(passage[: vectors.n_chunks]), tail))
        params = SamplingParams(max_tokens=20)
        default = TransformersEngine(model)
        for layout in (spelled, compressed, spelled):
            (there,), (here,) = (
                engine.generate([layout], params),
                default.generate([layout], params),
            )
            assert same(there, here)

    def test_a_stream_that_is_closed_ends_the_decoding(
        self, engine: VllmEngine, prompts: list[Layout], expected: Any
    ) -> None:
        stream = engine.stream(prompts[0], SamplingParams(max_tokens=300, temperature=1.0))
        next(stream)
        assert _unfinished(engine) == 1
        stream.close()
        _wait_for(lambda: _unfinished(engine) == 0)
        (output,) = engine.generate([prompts[0]], SamplingParams(max_tokens=40))
        assert output.token_ids == expected[0]

    async def test_tasks_and_cancelling(
        self, engine: VllmEngine, prompts: list[Layout], expected: Any
    ) -> None:
        async def tokens(layout: Layout) -> tuple[int, ...]:
            deltas = engine.astream(layout, SamplingParams(max_tokens=40))
            return tuple([i async for delta in deltas for i in delta.token_ids])

        cancelled = asyncio.create_task(tokens(prompts[3]))
        others = [asyncio.create_task(tokens(layout)) for layout in prompts]
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await asyncio.gather(*others) == expected
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.to_thread(_wait_for, lambda: _unfinished(engine) == 0)

    def test_what_is_not_finite_is_refused_and_the_engine_lives(
        self, model: RefragModel, engine: VllmEngine, prompts: list[Layout], expected: Any
    ) -> None:
        (good,) = model.encode_passages(TEXT[:1])
        rows = np.full_like(good.vectors, 3e38)
        bad = ChunkVectors(rows, good.token_ids, good.chunk_size, good.fingerprint)
        segment = PassageSegment(bad, np.zeros(bad.n_chunks, bool))
        layout = Layout((TextSegment(np.array([20])), segment))
        with pytest.raises(InvalidVectorsError, match="NaN or infinite"):
            engine.generate([layout], SamplingParams(max_tokens=4))
        (output,) = engine.generate([prompts[1]], SamplingParams(max_tokens=40))
        assert output.token_ids == expected[1]

    def test_what_vllm_cannot_do_is_refused_by_name(
        self, engine: VllmEngine, prompts: list[Layout]
    ) -> None:
        with pytest.raises(SamplingError, match="temperature"):
            engine.generate(prompts, SamplingParams(temperature=3.0))

    def test_both_frameworks(self, folder: Path, model: RefragModel, engine: VllmEngine) -> None:
        from langchain_core.documents import Document

        from langchain_refrag import ChatRefrag
        from llama_index.llms.refrag import RefragLLM

        settings: dict[str, Any] = {"model": str(folder), "device": "cpu", "max_tokens": 12}
        question, documents = "When was it dug?", [Document(text) for text in TEXT[:3]]
        here, there = ChatRefrag(**settings), ChatRefrag(**settings, engine=engine)
        answers = [chat.invoke(question, documents=documents).text for chat in (here, there)]
        assert answers[0] == answers[1]
        llms = RefragLLM(**settings), RefragLLM(**settings, engine=engine)
        texts = [llm.complete(question, documents=TEXT[:3]).text for llm in llms]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("split", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_workers(
    loaded: RefragModel,
    prompts: list[Layout],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    # Without compiling, vLLM's pipelines fail on a CPU.
    options = {**_OPTIONS, "enforce_eager": split.startswith("tensor"), split: 2}
    engine = VllmEngine(loaded, options=options)
    outputs = engine.generate(prompts, SamplingParams(max_tokens=40))
    engine.close()
    assert [output.token_ids for output in outputs] == expected


@pytest.mark.parametrize("eager", [True, False])
def test_an_adapter_at_chunk_embeddings(adapted: RefragModel, eager: bool) -> None:
    engine = VllmEngine(adapted, options={**_OPTIONS, "enforce_eager": eager})
    prompts, params = prompts_of(adapted), SamplingParams(max_tokens=40)
    outputs = engine.generate(prompts, params)
    engine.close()
    assert all(map(same, outputs, TransformersEngine(adapted).generate(prompts, params)))
    with pytest.MonkeyPatch.context() as patch:
        for layer in layers_at_chunks(adapted.decoder).values():
            patch.setitem(layer.scaling, CHUNK_ADAPTER, 0.0)
        without = TransformersEngine(adapted).generate(prompts, params)
    assert not same(outputs[1], without[1])


@pytest.mark.checkpoint
def test_the_bundled_checkpoint() -> None:
    from langchain_core.documents import Document

    from langchain_refrag import ChatRefrag

    settings: dict[str, Any] = {"device": "cpu", "max_tokens": 40, "rest": "compress"}
    model = load_checkpoint("refrag-smollm2-135m", "cpu").model
    engine = VllmEngine(model, options={**_OPTIONS, "max_model_len": 2048})
    documents = [Document(text) for text in TEXT]
    answers = [
        [
            chat.invoke(question, documents=documents, budget=budget).text
            for question in ("When was the harbour dug?", "How long did rain fall?")
            for budget in (0.0, 0.25, 1.0)
        ]
        for chat in (ChatRefrag(**settings), ChatRefrag(**settings, engine=engine))
    ]
    engine.close()
    assert answers[0] == answers[1]


class TestServer(EngineContract):
    """``vllm serve`` in a process of its own, through HTTP, with an adapter at chunk embeddings."""

    warm = 2.0
    tells_likelihoods = False

    @pytest.fixture
    def model(self, adapted: RefragModel) -> RefragModel:
        return adapted

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, adapted: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        root = tmp_path_factory.mktemp("served")
        export_decoder(adapted, root / "decoder")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(root / "decoder"), "--port", str(port), "--dtype", "float32"]
        command += ["--enable-prompt-embeds", "--enforce-eager", "--max-num-seqs", "8"]
        command += ["--block-size", "32", "--max-model-len", "512", "--api-key", "a-key"]
        command += ["--structured-outputs-config", '{"backend": "guidance"}']
        command += ["--enable-prompt-tokens-details"]
        with (root / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(lambda: _answers(f"http://127.0.0.1:{port}/health"), server, root / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, url: str, adapted: RefragModel) -> Iterator[VllmEngine]:
        engine = VllmEngine(adapted, base_url=url, api_key="a-key")
        yield engine
        engine.close()

    @pytest.fixture
    def engine(self, shared: VllmEngine) -> VllmEngine:
        return shared

    # A server is sent embeddings alone, to which no repetition penalty applies.

    def test_padding_changes_nothing(self, engine: VllmEngine) -> None:
        layout = Layout((TextSegment(np.array([20, 21])),))
        with pytest.raises(SamplingError, match="repetition_penalty"):
            engine.generate([layout], SamplingParams(repetition_penalty=1.2))

    def test_rows_with_their_own_parameters_leave_each_other_alone(
        self, engine: VllmEngine, layouts: list[Layout]
    ) -> None:
        params = [
            SamplingParams(max_tokens=1),
            SamplingParams(max_tokens=20, temperature=1.5, top_k=20, seed=7),
            SamplingParams(max_tokens=7),
            SamplingParams(max_tokens=30, stop=("e", "\ufffd"), temperature=0.8, top_p=0.9, seed=1),
        ]
        together = engine.generate(layouts, params)
        for layout, row_params, output in zip(layouts, params, together, strict=True):
            assert same(engine.generate([layout], row_params)[0], output)

    def test_greedy_tokens_are_the_default_engines(
        self, model: RefragModel, engine: VllmEngine
    ) -> None:
        prompts, params = prompts_of(model), SamplingParams(max_tokens=40)
        default = TransformersEngine(model).generate(prompts, params)
        assert all(map(same, engine.generate(prompts, params), default))

    def test_a_stream_that_is_closed_ends_the_decoding(
        self, url: str, engine: VllmEngine, layouts: list[Layout]
    ) -> None:
        stream = engine.stream(layouts[0], SamplingParams(max_tokens=400, temperature=1.0))
        next(stream)
        stream.close()
        _wait_for(lambda: "vllm:num_requests_running" in _metrics(url) and not _running(url))

    def test_the_frameworks_name_the_server(
        self, url: str, adapted_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from langchain_core.documents import Document

        from langchain_refrag import ChatRefrag

        monkeypatch.setenv("VLLM_API_KEY", "a-key")
        settings: dict[str, Any] = {"model": str(adapted_folder), "device": "cpu", "max_tokens": 12}
        question, documents = "When was it dug?", [Document(text) for text in TEXT[:3]]
        here, there = ChatRefrag(**settings), ChatRefrag(**settings, engine=f"vllm+{url}")
        answers = [chat.invoke(question, documents=documents).text for chat in (here, there)]
        assert answers[0] == answers[1]
        answer = asyncio.run(there.ainvoke(question, documents=documents))
        assert answer.text == answers[0]

    def test_another_decoder_is_refused(
        self, url: str, model: RefragModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head = model.decoder.lm_head.weight
        with torch.no_grad():
            before = head.clone()
            head.copy_(before.roll(1, 0))
        try:
            with pytest.raises(EngineError, match="does not run this checkpoint's decoder"):
                VllmEngine(model, base_url=url, api_key="a-key")
        finally:
            with torch.no_grad():
                head.copy_(before)

    def test_without_its_key(self, url: str, model: RefragModel) -> None:
        with pytest.raises(ServerError, match=r"401.*VLLM_API_KEY"):
            VllmEngine(model, base_url=url)


def _cached_positions(engine: VllmEngine) -> list[int]:
    """Positions that vLLM took from its prefix cache, by request from now on."""
    llm: Any = engine._source._llm  # type: ignore[attr-defined]
    generate, seen = llm.generate, []

    async def watched(*arguments: Any, **options: Any) -> Any:
        is_first = True
        async for output in generate(*arguments, **options):
            if is_first:
                seen.append(output.num_cached_tokens)
                is_first = False
            yield output

    llm.generate = watched
    return seen


def _unfinished(engine: VllmEngine) -> int:
    llm: Any = engine._source._llm  # type: ignore[attr-defined]
    return int(llm.get_num_unfinished_requests())


def _wait_for(condition: Any, process: Any = None, log: Path | None = None) -> None:
    end = time.monotonic() + _STARTING
    while not condition():
        assert process is None or process.poll() is None, log.read_text()[-2000:] if log else ""
        assert time.monotonic() < end
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


def _metrics(url: str) -> str:
    return httpx.get(url.replace("/v1", "/metrics")).text


def _running(url: str) -> bool:
    lines = [line for line in _metrics(url).splitlines() if not line.startswith("#")]
    return any("num_requests_running" in line and not line.endswith(" 0.0") for line in lines)
