"""Settings of an answer as the integrations take them, for a model or for a single call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, SkipValidation

from refrag_components.engines.base import Engine
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.shared_engine import SharedEngine
from refrag_components.exceptions import (
    SamplingError,
    ServerError,
    UnknownPolicyError,
    shown,
)
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.named_engines import check_engine
from refrag_components.generation.patience import Patience
from refrag_components.generation.remote import RemoteGenerator, remote_generator
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.requests import Answering, Request
from refrag_components.generation.shared_checkpoints import (
    Checkpoint,
    check_checkpoint,
    load_checkpoint,
)
from refrag_components.generation.tools import AnswerForm, Tools
from refrag_components.policies import (
    DEFAULT_POLICY,
    DEFAULT_REST,
    Budget,
    Policy,
    Rest,
    check_policy,
    parse_budget,
    parse_rest,
)
from refrag_components.prompts.parts import ControlPart, Message, Part, RenderedPart
from refrag_components.prompts.rendering import render
from refrag_components.prompts.resolver import Resolver
from refrag_components.prompts.retrieved import Retrieved, retrieved_by_hand
from refrag_components.stores.common.base import ChunkStore

__all__ = ["AnswerSettings"]

# Settings that no call can set.
_OF_THE_MODEL = frozenset(
    {"api_key", "base_url", "connect_timeout", "device", "engine", "read_timeout", "store"}
)

_NO_TOOLS = Tools()
_FREE_TEXT = AnswerForm()


class AnswerSettings(BaseModel):
    """Settings that the models of every framework share.

    Subclasses have one more field, the checkpoint's name. Arguments of the constructor that are not
    settings are ignored with a warning: those of remote models (api_key, max_retries) must not
    break a swap, but typos must show. None stands for the default, here and with a call.
    ``max_completion_tokens`` is another name of ``max_tokens``.

    Attributes:
        store: Where chunk vectors of passages are kept if their retriever named no store; in memory
            by default.
        engine: Runs the decoder of this checkpoint: "transformers", the default, "vllm" for vLLM
            in this process, "vllm+http://gpu:8000/v1" for a vLLM server (whose key, if it has one,
            is in the environment variable VLLM_API_KEY), or an engine.
        policy: Which chunks expand into tokens: one of ``refrag_components.policies.POLICIES``, a
            policy, or "auto": ``learned-query`` if the checkpoint carries it, else
            ``late-interaction``.
        budget: How much may expand: a fraction of the chunks in 0..1, an int of at least 2
            (decoder positions for all passages, filled from the top: text first, then, unless the
            rest is dropped, ever coarser chunk embeddings), a time to first token such as "40ms"
            (as many positions as this machine reads in it, see ``refrag bench calibrate``; not
            with vLLM), or a budget.
        rest: What becomes of chunks that do not expand: "drop" leaves them out, "compress" makes
            chunk embeddings of them.
        max_tokens: Maximum number of tokens to generate.
        temperature: 0 takes the likeliest token each time.
        top_p: Below 1, only the likeliest tokens that together reach this probability are drawn.
        top_k: From 1 on, only the k likeliest tokens are drawn; 0 for all.
        repetition_penalty: Above 1, tokens of prompt and answer get less likely.
        stop: Strings that end the answer.
        seed: The same seed gives the same answer, in any company only with ``reproducible``.
        reproducible: Decode each answer by itself, so that nothing that is asked at the same time
            changes how it is rounded; slower where many ask at once, and on a GPU.
        logprobs: Whether to tell how likely the decoder held each token of the answer.
        top_logprobs: With ``logprobs``, how many of the likeliest tokens to tell with each, from
            0 to 20.
        timeout: Seconds for an answer, from its preparation to its last token; then it ends with an
            ``AnswerTimeoutError``. Loading the model is not counted.
        device: Such as "cpu" or "cuda:1"; by default CUDA if available.
        base_url: A server that answers in place of this process, such as "http://gpu:8000/v1"
            (``refrag serve``); the model's name is then the server's. Chunk vectors from stores are
            sent along.
        api_key: A token of that server.
        connect_timeout: Seconds until that server is reached, and until it has said what it serves.
        read_timeout: Seconds for which it may send nothing; an answer that is not streamed is sent
            when it is complete. ``timeout`` limits an answer as a whole.

    Raises:
        BudgetError: If the budget or the rest is none of these.
        EngineError: If no engine has that name.
        MissingExtraError: If vLLM is asked for and not installed.
        SamplingError: If a sampling parameter is outside its range.
        ServerError: If a time to wait for a server is not one.
        UnknownModelError: If there is no such checkpoint.
        UnknownPolicyError: If no policy has that name.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    engine: SkipValidation[str | Engine | None] = Field(default=None, exclude=True, repr=False)
    policy: SkipValidation[str | Policy] = DEFAULT_POLICY
    budget: SkipValidation[float | str | Budget] = 0.25
    rest: SkipValidation[Rest] = DEFAULT_REST
    # Checked by ``SamplingParams``, which converts nothing: True is not one token.
    max_tokens: SkipValidation[int] = 256
    temperature: SkipValidation[float] = 0.0
    top_p: SkipValidation[float] = 1.0
    top_k: SkipValidation[int] = 0
    repetition_penalty: SkipValidation[float] = 1.0
    stop: SkipValidation[list[str] | None] = None
    seed: SkipValidation[int | None] = None
    reproducible: SkipValidation[bool] = False
    logprobs: SkipValidation[bool] = False
    top_logprobs: SkipValidation[int] = 0
    timeout: SkipValidation[float | None] = None
    device: str | None = None
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    connect_timeout: SkipValidation[float] = Patience.connect
    read_timeout: SkipValidation[float] = Patience.read

    _model_field: ClassVar[str] = "model"
    _by_call: ClassVar[tuple[str, ...]]  # what a call may set
    _call_only: ClassVar[tuple[str, ...]] = ()  # accepted with a call, but not settings

    def __init__(self, **values: Any) -> None:
        values = _by_our_names(values)
        super().__init__(**values)
        settings = type(self).model_fields
        known = {*settings, *(field.alias for field in settings.values() if field.alias)}
        if self.base_url is None:
            known -= {"api_key"}  # that of another server, left behind by a swap
        if unknown := sorted(set(values) - known):
            warnings.warn(f"{type(self).__name__} ignores {', '.join(unknown)}", stacklevel=2)
        # Not a validator: pydantic would wrap the library's own errors.
        if self.base_url is None:
            check_checkpoint(self._checkpoint_name)
        self._check()

    @property
    def _checkpoint_name(self) -> str:
        name: str = getattr(self, self._model_field)
        return name

    def _for_call(self, overrides: Mapping[str, Any]) -> Self:
        """These settings with the overrides of one call.

        Raises:
            TypeError: If the call names something that is not a setting.
            RefragError: As the constructor.
        """
        overrides = {
            name: value
            for name, value in _by_our_names(overrides).items()
            if name not in self._call_only
        }
        if unknown := sorted(set(overrides) - set(self._by_call)):
            msg = (
                f"{type(self).__name__} does not take {', '.join(unknown)} with a call; it takes "
                f"{', '.join((*self._call_only, *self._by_call))}"
            )
            raise TypeError(msg)
        if not overrides:
            return self
        changes = {
            self._model_field if name == "model" else name: overrides[name] for name in overrides
        }
        call = self.model_copy(update=changes)
        if "model" in overrides and self.base_url is None:
            check_checkpoint(call._checkpoint_name)
        call._check()
        return call

    def _check(self) -> None:
        """Refuses settings that no call could work with, before a model is loaded."""
        check_policy(self.policy)
        parse_budget(self.budget)
        parse_rest(self.rest)
        if isinstance(self.engine, str):
            check_engine(self.engine)
        self._sampling_params()
        self._patience()
        if self.base_url is not None and not isinstance(self.policy, str):
            msg = "a policy object cannot be sent to a server; give a policy's name with base_url"
            raise UnknownPolicyError(msg)

    def _checkpoint(self) -> Checkpoint:
        if self.base_url is not None:
            msg = (
                f"this needs the model itself, which is at {self.base_url}; use a model without "
                "base_url for it"
            )
            raise ServerError(msg)
        return load_checkpoint(self._checkpoint_name, self.device)

    @property
    def _server(self) -> RemoteGenerator | None:
        """The server that answers, if it is not this process."""
        if self.base_url is None:
            return None
        api_key = None if self.api_key is None else self.api_key.get_secret_value()
        return remote_generator(self.base_url, self._checkpoint_name, api_key, self._patience())

    def _patience(self) -> Patience:
        return Patience(self.connect_timeout, self.read_timeout)

    @property
    def _answering(self) -> Answering:
        """What answers requests of ``_ask``."""
        return self._server or self._checkpoint().generator

    def _engine_window(self, decoder_window: int) -> int:
        """The decoder's window in positions, or that of an engine that is given and takes less.

        One that is only named is not started for it.
        """
        engine = self.engine
        return (
            min(decoder_window, engine.window)
            if isinstance(engine, SharedEngine)
            else decoder_window
        )

    def _resolver(self, request: Retrieved | None) -> Resolver:
        """Finds passages in the prompt of a request.

        Args:
            request: What it has retrieved; None where that cannot be told.
        """
        retrievals = () if request is None else request.retrievals
        if request is not None and retrievals:
            request.is_read = True
        server = self._server
        return Resolver(
            self._checkpoint().model.fingerprint if server is None else server.served.fingerprint,
            retrievals,
            by_hand=retrieved_by_hand(),
            store=self.store,
        )

    def _ask(self, parts: Sequence[RenderedPart], question: str) -> Request:
        return Request(
            parts,
            question,
            policy=self.policy,
            budget=parse_budget(self.budget),
            rest=self.rest,
            engine=self._checkpoint().engine(self.engine),
        )

    def _ask_server(
        self, messages: Sequence[Message], question: str, *, is_chat: bool = True
    ) -> RemoteRequest:
        assert isinstance(self.policy, str)
        budget = parse_budget(self.budget)
        return RemoteRequest(
            tuple(messages),
            question,
            self.policy,
            budget,
            parse_rest(self.rest),
            self.store,
            is_chat=is_chat,
        )

    def _ask_conversation(
        self,
        messages: Sequence[Message],
        question: str,
        tools: Tools = _NO_TOOLS,
        schema: AnswerSchema | None = None,
    ) -> tuple[Request | RemoteRequest, AnswerForm]:
        """A conversation as a request, and what its answer looks like.

        Args:
            messages: The conversation; its passages are resolved.
            question: What the policy compares chunks with.
            tools: What may be called.
            schema: JSON that the answer has to be; None for free text.

        Raises:
            StructuredOutputError: If a tool's schema cannot be enforced.
            ToolCallingError: If what answers cannot be told about the tools, or there is a schema
                as well.
        """
        if self.base_url is not None:
            tools.refuse_server()
            return self._ask_server(messages, question), AnswerForm(schema=schema)
        tokenizer = self._checkpoint().model.tokenizer
        parts = render(messages, tokenizer, tools=tools.schemas)
        written = "".join(part.text for part in parts if isinstance(part, ControlPart))
        form = tools.form(tokenizer, schema, written)
        return self._ask([*parts, *form.prefix], question), form

    def _ask_to_continue(self, parts: Sequence[Part], question: str) -> Request | RemoteRequest:
        """A text as a request to continue it, without a chat template."""
        if self.base_url is not None:
            return self._ask_server([Message("user", tuple(parts))], question, is_chat=False)
        return self._ask(parts, question)

    def _explain(self, request: Request | RemoteRequest, max_tokens: int) -> Explanation:
        """What would be made of each span of a prompt.

        Raises:
            ServerError: If a server answers, which does not tell.
        """
        generator = self._checkpoint().generator
        assert isinstance(request, Request)
        prepared = generator.prepare(request, max_tokens=max_tokens)
        return generator.explain(prepared, request.question)

    def _token_ids(self, text: str) -> list[int]:
        """Token ids of a text by the decoder's own tokenizer."""
        (passage,) = self._checkpoint().model.chunker.chunk([text], offsets=False)
        ids: list[int] = passage.token_ids.tolist()
        return ids

    def _sampling_params(self, form: AnswerForm = _FREE_TEXT) -> SamplingParams:
        values: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(SamplingParams)
            if field.name in AnswerSettings.model_fields
        }
        values |= {
            "stop": () if self.stop is None else self.stop,
            "top_logprobs": self._n_logprobs(),
            "answer_schema": form.schema,
            "skip_special_tokens": form.skip_special_tokens,
        }
        return SamplingParams(**values)

    def _n_logprobs(self) -> int | None:
        if not isinstance(self.logprobs, bool):
            msg = (
                "logprobs must be True or False, and top_logprobs how many of the likeliest tokens "
                f"are told with each; got logprobs={shown(self.logprobs)}"
            )
            raise SamplingError(msg)
        if self.logprobs:
            return self.top_logprobs
        if self.top_logprobs != 0:
            msg = f"top_logprobs={shown(self.top_logprobs)} needs logprobs=True"
            raise SamplingError(msg)
        return None


# The fields are known when the class is complete.
AnswerSettings._by_call = (
    *(name for name in AnswerSettings.model_fields if name not in _OF_THE_MODEL),
    "max_completion_tokens",
)


def _by_our_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are given, under the names of the fields."""
    given = {name: value for name, value in values.items() if value is not None}
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    return given
