"""One process that serves two tenants from both frameworks while everything goes wrong around it.

``benchmarks/soak.py`` runs it at full size, ``test_soak.py`` at a tenth of that.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from contextvars import Context
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from llama_index.core.base.base_retriever import BaseRetriever as NodeRetriever
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from langchain_refrag import ChatRefrag, RefragRetriever
from llama_index.llms.refrag import RefragLLM
from llama_index.postprocessor.refrag import RefragNodePostprocessor
from refrag_components.engines.base import EngineDelta, EngineOutput
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.generation.store_guard import guard_of
from refrag_components.modeling import RefragModel
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.memory import MemoryStore
from refrag_components.stores.sqlite import SQLiteStore
from refrag_components.vectors import ChunkVectors, passage_key
from tests.engines.shown import ShowsLayout
from tests.tiny import TEXT

__all__ = ["ROUNDS", "Figures", "Soak"]

ROUNDS = 10
CALLERS = 64  # half of them threads, half of them tasks
PATIENCE = 1800.0  # seconds for one round before it counts as hanging
_CHILD = 300.0  # seconds of a forked child for eight answers, which take one or two
FAQ = "Which plug do I need for the charger model ZX-20 in Malta?"
COMMON = (*TEXT, FAQ)  # both tenants have them, each in a store of their own
QUESTIONS = ("When was the harbour dug?", FAQ, f"Proofread this: {TEXT[0]}", "Context:", "lamp")
CHAINS = ("chain", "stream", "batch", "pasted")
WAYS = (*CHAINS, "query engine")
TEMPLATE = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}")
# What the second tenant's store does from the middle of each round on.
MOODS = ("well", "raises", "well", "hangs", "well", "lies", "well", "raises", "hangs", "well")


@dataclass(frozen=True)
class Visit:
    """What one user asks once.

    Attributes:
        tenant: Whose user: 0 or 1.
        way: How.
        passages: What their retriever returns.
        question: What is asked.
    """

    tenant: int
    way: str
    passages: tuple[str, ...]
    question: str


@dataclass
class Figures:
    """What happened.

    Attributes:
        answered: Requests that were answered to their end.
        cancelled: Requests that were cancelled or closed before.
        wrong_layouts: What was laid out differently than when it is asked alone.
        wrong_answers: What was laid out rightly and answered differently.
        failures: What was raised, and what did not end.
        children: Exit statuses of forked children, 0 for right answers.
        memory: Resident MiB after each round; what the allocator keeps for later is in it.
        allocated: MiB that are in use by whatever allocates with C's library, tensors included.
        objects: Objects of Python after each round.
        open_files: Open files after each round.
        threads: Threads after each round.
        waited: Seconds that each answer took.
    """

    answered: int = 0
    cancelled: int = 0
    wrong_layouts: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    allocated: list[float] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    open_files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


class MarksLayout:
    """The default engine, whose answers begin with a hash of what they were given to read."""

    def __init__(self, model: RefragModel) -> None:
        self._inner = TransformersEngine(model)
        self._shown = ShowsLayout(model)

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        outputs = self._inner.generate(layouts, params)
        return [
            replace(output, text=self._mark(layout) + output.text)
            for layout, output in zip(layouts, outputs, strict=True)
        ]

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        mark = self._mark(layout)
        with closing(self._inner.stream(layout, params)) as deltas:
            for delta in deltas:
                yield replace(delta, text=mark + delta.text)
                mark = ""

    async def astream(self, layout: Layout, params: SamplingParams) -> AsyncGenerator[EngineDelta]:
        mark = self._mark(layout)
        async with aclosing(self._inner.astream(layout, params)) as deltas:
            async for delta in deltas:
                yield replace(delta, text=mark + delta.text)
                mark = ""

    def _mark(self, layout: Layout) -> str:
        return f"{hashlib.blake2b(self._shown.read(layout).encode(), digest_size=8).hexdigest()} "


class MoodyStore(BaseChunkStore):
    """A store that dies and comes back."""

    timeout = 0.2

    def __init__(self) -> None:
        self.inner = MemoryStore(max_bytes=2**20)
        self.mood = "well"

    def mget(self, keys: Sequence[str]) -> Any:
        self._suffer()
        return "nothing of the kind" if self.mood == "lies" else self.inner.mget(keys)

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        self._suffer()
        self.inner.mset(pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self.inner.mdelete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        yield from self.inner.yield_keys(prefix=prefix)

    def _suffer(self) -> None:
        if self.mood == "raises":
            raise OSError("the database has gone")
        while self.mood == "hangs":  # no lock, which a forked child might find held
            time.sleep(0.01)


class Documents(BaseRetriever):
    """Returns the same documents whatever is asked."""

    texts: tuple[str, ...]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [Document(text) for text in self.texts]


class Nodes(NodeRetriever):
    """Returns the same nodes whatever is asked."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        self._texts = texts

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in self._texts]


class Office:
    """The process's models and the tenants' stores."""

    def __init__(self, checkpoint: str, folder: Path) -> None:
        self.fingerprint = load_checkpoint(checkpoint).model.fingerprint
        engine: Any = MarksLayout(load_checkpoint(checkpoint).model)
        options: dict[str, Any] = {"model": checkpoint, "max_tokens": 6, "engine": engine}
        self.chat, self.llm = ChatRefrag(**options), RefragLLM(**options)
        self.sick = MoodyStore()
        self.stores: tuple[BaseChunkStore, ...] = (
            SQLiteStore(folder / "tenant.sqlite"),
            self.sick,
        )

    def chain(self, visit: Visit) -> Runnable[Any, Any]:
        retriever = RefragRetriever(
            retriever=Documents(texts=visit.passages), store=self.stores[visit.tenant]
        )
        inputs = {"context": retriever | _joined, "question": RunnablePassthrough()}
        return inputs | TEMPLATE | self.chat | (lambda message: message.content)

    def engine(self, visit: Visit) -> RetrieverQueryEngine:
        marked = RefragNodePostprocessor(store=self.stores[visit.tenant])
        return RetrieverQueryEngine.from_args(
            Nodes(visit.passages), llm=self.llm, node_postprocessors=[marked]
        )

    def serve(self, visit: Visit) -> str:
        match visit.way:
            case "query engine":
                return str(self.engine(visit).query(visit.question))
            case "stream":
                return "".join(self.chain(visit).stream(visit.question))
            case "batch":
                return "".join(self.chain(visit).batch([visit.question, f"{visit.question} Why?"]))
            case "pasted":
                return str(self.chat.invoke(_pasted(visit)).content)
        return str(self.chain(visit).invoke(visit.question))

    async def aserve(self, visit: Visit) -> str:
        match visit.way:
            case "query engine":
                return str(await self.engine(visit).aquery(visit.question))
            case "stream":
                stream = self.chain(visit).astream(visit.question)
                return "".join([part async for part in stream])
            case "batch":
                questions = [visit.question, f"{visit.question} Why?"]
                return "".join(await self.chain(visit).abatch(questions))
            case "pasted":
                return str((await self.chat.ainvoke(_pasted(visit))).content)
        return str(await self.chain(visit).ainvoke(visit.question))

    def alone(self, visit: Visit) -> str:
        """What the user gets in a thread that has done nothing else."""
        return Context().run(self.serve, visit)

    def flush(self) -> bool:
        """Whether all chunk vectors have been written, or given up."""
        return all([guard_of(store).flush(PATIENCE) for store in self.stores])


class Soak:
    """Requests in ten rounds, each of them by 64 callers.

    Args:
        checkpoint: Folder of a small checkpoint.
        folder: Empty, for the first tenant's store.
        requests: How many.
        seed: Decides what is asked, not in which order it is served.
    """

    def __init__(self, checkpoint: str, folder: Path, requests: int, seed: int = 0) -> None:
        self.office = Office(checkpoint, folder)
        self.figures = Figures()
        self._requests = requests
        self._seed = seed
        rng = random.Random(seed)
        self._known = [self._visit(rng, COMMON) for _ in range(min(requests // 5, 200))]
        self._expected = {visit: self.office.alone(visit) for visit in self._known}
        self._fresh: list[tuple[Visit, str]] = []  # a sample, to be asked again alone
        self._own: tuple[set[str], set[str]] = (set(COMMON), set(COMMON))
        self._lock = threading.Lock()

    def run(self) -> Figures:
        """Serves everything; what went wrong is in the figures."""
        numbers = count()
        for mood in MOODS:
            self._round(numbers, mood)
            self._measure()
        self.office.sick.mood = "well"
        for visit, answer in self._fresh:
            self._compare(visit, answer, self.office.alone(visit))
        return self.figures

    def comes_back(self, seconds: float) -> bool:
        """Whether the second tenant's store is read again, within so many seconds."""
        visit = Visit(1, "chain", COMMON[:2], QUESTIONS[0])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            report = self._report(visit)
            if report["cache_hits"] == 2 and not report["warnings"]:
                return True
            self.office.flush()
            time.sleep(0.05)
        return False

    def strangers(self) -> set[str]:
        """Keys in a tenant's store of passages that this tenant never retrieved."""
        found: set[str] = set()
        for store, texts in zip(self.office.stores, self._own, strict=True):
            own = {passage_key(text, self.office.fingerprint) for text in texts}
            found |= set(store.yield_keys()) - own
        return found

    def close(self) -> None:
        """Closes the stores."""
        for store in self.office.stores:
            store.close()

    def _round(self, numbers: Iterator[int], mood: str) -> None:
        share = self._requests // ROUNDS
        waiting = iter([next(numbers) for _ in range(share)])
        begun = 0
        middle = threading.Event()

        def draw() -> int | None:
            nonlocal begun
            with self._lock:
                begun += 1
                if begun > share // 2:
                    self.office.sick.mood = mood
                    middle.set()
                return next(waiting, None)

        def call() -> None:
            while (number := draw()) is not None:
                self._serve(number)

        async def acall() -> None:
            while (number := draw()) is not None:
                await self._aserve(number)

        async def acalls() -> None:
            await asyncio.gather(*(acall() for _ in range(CALLERS // 2)))

        def fork() -> None:
            middle.wait(PATIENCE)
            self.figures.children.append(self._child())

        jobs = [call] * (CALLERS // 2) + [lambda: asyncio.run(acalls())]
        if hasattr(os, "fork"):
            jobs.append(fork)
        pool = ThreadPoolExecutor(len(jobs))
        futures = [pool.submit(job) for job in jobs]
        end = time.monotonic() + PATIENCE
        for future in futures:
            try:
                future.result(max(end - time.monotonic(), 0.0))
            except TimeoutError:
                self.figures.failures.append("a caller hangs")
                raise
        pool.shutdown()

    def _draw(self, number: int) -> tuple[random.Random, Visit, bool]:
        """What request ``number`` is, and whether it is among those that were asked alone."""
        rng = random.Random(f"{self._seed} {number}")
        if rng.random() < 0.8:
            return rng, rng.choice(self._known), True
        tenant = rng.randrange(2)
        texts = [f"{rng.choice(TEXT)} Number {number} of tenant {tenant}.", *COMMON]
        visit = self._visit(rng, texts[:1] + rng.sample(COMMON, 2), tenant)
        with self._lock:
            self._own[tenant].add(texts[0])
        return rng, visit, False

    def _visit(self, rng: random.Random, texts: Sequence[str], tenant: int | None = None) -> Visit:
        tenant = rng.randrange(2) if tenant is None else tenant
        passages = tuple(rng.sample(list(texts), rng.randint(1, 3)))
        return Visit(tenant, rng.choice(WAYS), passages, rng.choice(QUESTIONS))

    def _serve(self, number: int) -> None:
        rng, visit, known = self._draw(number)
        started = time.perf_counter()
        try:
            if visit.way == "stream" and rng.random() < 0.3:
                with closing(self.office.chain(visit).stream(visit.question)) as stream:  # type: ignore[type-var]
                    for _ in range(rng.randint(1, 3)):
                        next(stream, None)
                self._ended(None)
                return
            answer = self.office.serve(visit)
        except Exception as error:
            self._failed(visit, error)
            return
        self._ended(time.perf_counter() - started)
        self._check(number, visit, known, answer)

    async def _aserve(self, number: int) -> None:
        rng, visit, known = self._draw(number)
        started = time.perf_counter()
        task = asyncio.create_task(self.office.aserve(visit))
        try:
            if rng.random() < 0.2:
                await asyncio.wait([task], timeout=rng.choice((0.0, 0.001, 0.01, 0.05)))
                task.cancel()
            answer = await task
        except asyncio.CancelledError:
            self._ended(None)
            return
        except Exception as error:
            self._failed(visit, error)
            return
        self._ended(time.perf_counter() - started)
        self._check(number, visit, known, answer)

    def _check(self, number: int, visit: Visit, known: bool, answer: str) -> None:
        if known:
            self._compare(visit, answer, self._expected[visit])
        elif number % 10 == 0:
            with self._lock:
                self._fresh.append((visit, answer))

    def _compare(self, visit: Visit, answer: str, expected: str) -> None:
        if answer == expected:
            return
        same_layout = answer.split()[:1] == expected.split()[:1] and visit.way != "batch"
        wrong = self.figures.wrong_answers if same_layout else self.figures.wrong_layouts
        wrong.append(f"{visit}: {answer!r} is not {expected!r}")

    def _ended(self, seconds: float | None) -> None:
        with self._lock:
            if seconds is None:
                self.figures.cancelled += 1
            else:
                self.figures.answered += 1
                self.figures.waited.append(seconds)

    def _failed(self, visit: Visit, error: Exception) -> None:
        self.figures.failures.append(f"{visit}: {type(error).__name__}: {error}")

    def _report(self, visit: Visit) -> dict[str, Any]:
        documents = [Document(text) for text in visit.passages]
        retriever = RefragRetriever(
            retriever=Documents(texts=visit.passages), store=self.office.stores[visit.tenant]
        )
        chain = retriever | (lambda _: _joined(documents) + "\n\nWhen?") | self.office.chat
        report: dict[str, Any] = chain.invoke(visit.question).response_metadata["refrag"]
        return report

    def _child(self) -> int:
        """The exit status of a forked child that answers for both tenants."""
        # Of LangChain alone: a lock of LlamaIndex's own instrumentation may be held at the fork.
        asked = [visit for visit in self._known if visit.way in CHAINS][:8]
        child = os.fork()
        if child == 0:
            try:
                watch = threading.Timer(_CHILD, _end_hanging)
                watch.daemon = True
                watch.start()
                signal.alarm(round(_CHILD) + 30)  # if it hangs where no thread of Python gets on
                right = all(self.office.alone(visit) == self._expected[visit] for visit in asked)
                os._exit(0 if right else 1)
            except BaseException:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _measure(self) -> None:
        mood, self.office.sick.mood = self.office.sick.mood, "well"
        assert self.office.flush()
        self.office.sick.mood = mood
        for _ in range(3):
            gc.collect()
        figures = self.figures
        figures.objects.append(len(gc.get_objects()))
        figures.threads.append(threading.active_count())
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            figures.memory.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
            figures.open_files.append(len(os.listdir("/proc/self/fd")))
            if (allocated := _allocated()) is not None:
                figures.allocated.append(allocated)


def _end_hanging() -> None:
    """Shows where a child hangs; capturing has taken ``sys.stderr``."""
    faulthandler.dump_traceback(file=2)
    os._exit(3)


class _Mallinfo2(ctypes.Structure):
    """What glibc says of all its arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _allocated() -> float | None:
    """MiB in use, None where C's library does not say (glibc does, from 2.33 on)."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _Mallinfo2
    info = ask()
    return float((info.uordblks + info.hblkhd) / 2**20)


def _joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def _pasted(visit: Visit) -> str:
    """A prompt without a retriever: nothing in it is compressed, whoever has retrieved it."""
    return "\n\n".join([*visit.passages, "What does it say?"])
