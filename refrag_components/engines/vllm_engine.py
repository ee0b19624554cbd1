"""vLLM decodes: in this process, or a server of it by prompt embeddings."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import secrets
import weakref
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self

from refrag_components.engines.growing_answer import GrowingAnswer
from refrag_components.engines.layout import Layout
from refrag_components.engines.loop_thread import LoopThread
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.shared_engine import SharedEngine
from refrag_components.engines.vllm_decoder import check_likeliest, probe_ids, refuse_decoder
from refrag_components.engines.vllm_in_process import InProcess
from refrag_components.engines.vllm_sampling import answer_format, vllm_sampling
from refrag_components.engines.vllm_server import FromServer
from refrag_components.engines.vllm_source import TokenSource, VllmRequest
from refrag_components.exceptions import EngineError

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["VllmEngine"]


class _VllmAnswer(GrowingAnswer):
    """An answer that vLLM is asked for.

    Args:
        layout: The prompt.
        source: Whom to ask.
        request: For what.
        loop: Where.
        **common: As for ``GrowingAnswer``.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        source: TokenSource,
        request: VllmRequest,
        loop: LoopThread,
        **common: Any,
    ) -> None:
        super().__init__(layout, **common)
        self._source = source
        self._request = request
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._reading = False

    def begin(self) -> None:
        """Starts the decoding; to be called in the loop."""
        self._task = asyncio.create_task(self._decode())

    def withdraw(self) -> None:
        """Ends the answer because nobody waits for it, and its decoding."""
        super().withdraw()
        self._loop.soon(self._abort)

    def _abort(self) -> None:
        # What is not reading any more is just telling vLLM so, and must not be disturbed.
        if self._task is not None and self._reading:
            self._task.cancel()

    async def _decode(self) -> None:
        try:
            async with aclosing(self._source.tokens(self.layout, self._request)) as parts:
                self._reading = True
                while not self.ended:
                    for token_id in await anext(parts):
                        self.take(token_id)
                self._reading = False
        except StopAsyncIteration:
            self.fail(EngineError("vLLM ended an answer too early; see its log"))
        except asyncio.CancelledError:
            self.fail(EngineError("the engine was closed"))
            raise
        except Exception as error:
            self.fail(error)


class VllmEngine(SharedEngine[_VllmAnswer]):
    """Has vLLM decode layouts; tokens, stop strings and texts are those of the default engine.

    Chunk embeddings are made here and passed to vLLM as prompt embeddings, checked for shape and
    finite values. Sampled answers with a seed are the same each time, but other ones than the
    default engine's.

    vLLM's prefix cache is shared by nobody but those who use this very object, or one of the same
    ``for_tenant``.

    Args:
        model: The checkpoint, whose decoder vLLM loads. One with an adapter at chunk embeddings has
            to be a Llama, and runs on one worker, not in float16.
        base_url: A vLLM server, such as "http://gpu:8000/v1"; by default vLLM is started in this
            process. Then a script has to guard its code by ``if __name__ == "__main__":``.
        api_key: The server's, if it has one.
        options: For vLLM in this process: arguments of its ``AsyncEngineArgs``, such as
            ``tensor_parallel_size``, ``pipeline_parallel_size`` or ``gpu_memory_utilization``.

    Raises:
        EngineError: If vLLM cannot be started, an option does not go with chunk embeddings, or
            vLLM runs another decoder than the checkpoint's.
        MissingExtraError: If vLLM is not installed.
        ServerError: If the server cannot be reached.
    """

    def __init__(
        self,
        model: RefragModel,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        refuse_decoder(model)
        if base_url is not None and options:
            raise EngineError("options are for vLLM in this process; start the server with them")
        self._source: TokenSource = (
            InProcess(model, options or {})
            if base_url is None
            else FromServer(model, base_url, api_key)
        )
        self._salt = secrets.token_urlsafe(32)
        self._loop = LoopThread("refrag-vllm")
        self._lifeline = _Lifeline()  # of this engine and of all that ``for_tenant`` makes of it
        self._end = weakref.finalize(self._lifeline, _end, self._source, self._loop)
        try:
            self._loop.run(self._source.start())
            ids = probe_ids(model)
            check_likeliest(model, ids, self._loop.run(self._source.likeliest(ids)))
        except BaseException:
            self.close()
            raise

    def for_tenant(self, tenant: str) -> Self:
        """The same engine, whose prefix cache serves this tenant's prompts alone.

        How soon an answer begins tells who shares a cache with others what they have asked.

        Args:
            tenant: Whose prompts they are; what this engine has made for the same name shares its
                cache.
        """
        other = copy.copy(self)
        digest = hashlib.blake2b(tenant.encode(), key=self._salt.encode(), digest_size=32)
        other._salt = digest.hexdigest()
        return other

    def close(self) -> None:
        """Ends vLLM in this process, or leaves the server; answers that are not complete fail.

        It happens by itself when nobody holds the engine any longer.
        """
        self._end()

    @property
    def window(self) -> int:
        """As ``SharedEngine``; vLLM may have been started with less than the decoder's."""
        return self._source.window

    def _begin(self, layout: Layout, params: SamplingParams, **common: Any) -> _VllmAnswer:
        self._source.check(params)
        sampling = vllm_sampling(params, max_tokens=common["max_tokens"], end_ids=self._end_ids)
        schema = None if params.answer_schema is None else answer_format(params.answer_schema)
        request = VllmRequest(sampling, schema, self._salt)
        return _VllmAnswer(layout, source=self._source, request=request, loop=self._loop, **common)

    def _submit(self, answers: Sequence[_VllmAnswer]) -> None:
        if not self._loop.is_running:
            msg = "this vLLM engine was closed, or made before a fork; make a new one"
            raise EngineError(msg)
        for answer in answers:
            self._loop.soon(answer.begin)


class _Lifeline:
    """Is held by engines, and by nothing that an engine's loop runs."""


def _end(source: TokenSource, loop: LoopThread) -> None:
    if loop.is_running:
        loop.close()
        source.close()
