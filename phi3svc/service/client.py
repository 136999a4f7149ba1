"""A small asyncio client, as the command line uses it.

    async with Client.connect("127.0.0.1:50051") as client:
        async for event in client.generate([("user", "Hello!")], max_new_tokens=50):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)

Failed calls raise the server's own error (`InvalidRequest`, `Overloaded`, …), rebuilt from the
rich status, or `CallError`; either way the message is one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar

import grpc
import grpc.aio

from phi3svc.engine.events import TextEvent
from phi3svc.service.caller import TENANT_HEADER
from phi3svc.service.client_messages import (
    LabelScore,
    RemoteModel,
    TokenLabels,
    set_prompt,
    to_event,
    to_model,
    to_spans,
)
from phi3svc.service.remote_errors import error_of
from phi3svc.text.entities import check_strategy
from phi3svc.v1 import (
    classification_service_pb2,
    classification_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    sampling_pb2,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

MAX_RECEIVE_BYTES = 64 << 20
_CALLS_AT_ONCE = 64

Response = TypeVar("Response")


class Client:
    """One connection to a server. Use it as an async context manager, or `close` it.

    model arguments may stay empty when the server has one model for the task. timeout_s: deadline
    of the call; the server frees its work when it passes. tenant: on whose behalf all calls are
    made.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, tenant: str = "") -> None:
        self._channel = channel
        self._metadata = ((TENANT_HEADER, tenant),) if tenant else ()
        self._address = address
        self._generation = generation_service_pb2_grpc.GenerationServiceStub(channel)
        self._classification = classification_service_pb2_grpc.ClassificationServiceStub(channel)
        self._tokenizer = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    @classmethod
    def connect(cls, address: str, tenant: str = "") -> Self:
        """A client of `host:port` or `unix:path`; the connection is made by the first call."""
        options = [("grpc.max_receive_message_length", MAX_RECEIVE_BYTES)]
        return cls(grpc.aio.insecure_channel(address, options=options), address, tenant)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def generate(
        self,
        prompt: str | Sequence[tuple[str, str]] | Sequence[int],
        *,
        model: str = "",
        request_id: str = "",
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        n: int | None = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        stop: Iterable[str] = (),
        stop_token_ids: Iterable[int] = (),
        ignore_eos: bool = False,
        wants_logprobs: bool = False,
        wants_token_ids: bool = False,
        top_logprobs: int = 0,
        wants_prompt_logprobs: bool = False,
        coalesce_ms: int = 0,
        cache_salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[TextEvent, None]:
        """Yields Started, PromptLogprobs, Deltas, a Finished for each of the n answers, Completed.

        Closing the iterator cancels the call. prompt: text, a conversation as (role, content)
        turns, or token ids. n: answers wanted, told apart by `index`. top_logprobs: likeliest
        tokens to tell in each place, of the prompt too if its log probabilities are wanted.
        cache_salt: share cached prompts only with calls that give the same one. priority: -100 to
        100, higher starts first among what waits of the same tenant.
        """
        request = generation_service_pb2.GenerateRequest(
            model=model,
            request_id=request_id,
            sampling=sampling_pb2.SamplingParams(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                min_p=min_p,
                typical_p=typical_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                logit_bias=logit_bias,
                n=n,
            ),
            stop=sampling_pb2.StopCriteria(
                max_new_tokens=max_new_tokens,
                min_new_tokens=min_new_tokens,
                strings=stop,
                token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
            ),
            output=generation_service_pb2.OutputOptions(
                logprobs=wants_logprobs,
                top_logprobs=top_logprobs,
                token_ids=wants_token_ids,
                prompt_logprobs=wants_prompt_logprobs,
                coalesce_ms=coalesce_ms,
            ),
            cache_salt=cache_salt,
            priority=priority,
        )
        set_prompt(request, prompt)
        call = self._generation.Generate(request, timeout=timeout_s, metadata=self._metadata)
        try:
            with self._errors():
                async for response in call:
                    event = to_event(response)
                    if event is not None:
                        yield event
        finally:
            call.cancel()

    async def tokenize(
        self,
        prompt: str | Sequence[tuple[str, str]],
        *,
        model: str = "",
        timeout_s: float | None = None,
    ) -> list[int]:
        """The tokens that `generate` makes of a text or a conversation."""
        if isinstance(prompt, str):
            text = tokenizer_service_pb2.TokenizeRequest(model=model, text=prompt)
            return list(
                (await self._call(self._tokenizer.Tokenize(text, timeout=timeout_s))).token_ids
            )
        turns = [{"role": role, "content": content} for role, content in prompt]
        chat = tokenizer_service_pb2.RenderChatRequest(model=model, chat={"messages": turns})
        return list(
            (await self._call(self._tokenizer.RenderChat(chat, timeout=timeout_s))).token_ids
        )

    async def token_texts(
        self, token_ids: Iterable[int], *, model: str = "", timeout_s: float | None = None
    ) -> dict[int, str]:
        """The text of each token by itself, special ones written out."""
        distinct = sorted(set(token_ids))
        texts: dict[int, str] = {}
        for i in range(0, len(distinct), _CALLS_AT_ONCE):
            ids = distinct[i : i + _CALLS_AT_ONCE]
            calls = (
                self._tokenizer.Detokenize(
                    tokenizer_service_pb2.DetokenizeRequest(
                        model=model, token_ids=[token_id], skip_special=False
                    ),
                    timeout=timeout_s,
                )
                for token_id in ids
            )
            responses = await asyncio.gather(*(self._call(call) for call in calls))
            texts |= {i: response.text for i, response in zip(ids, responses, strict=True)}
        return texts

    async def classify(
        self, texts: Sequence[str], *, model: str = "", timeout_s: float | None = None
    ) -> list[tuple[LabelScore, ...]]:
        """Per text every label, the best first."""
        request = classification_service_pb2.ClassifyRequest(model=model, texts=texts)
        response = await self._call(
            self._classification.Classify(request, timeout=timeout_s, metadata=self._metadata)
        )
        return [
            tuple(LabelScore(item.label, item.score) for item in result.labels)
            for result in response.results
        ]

    async def classify_tokens(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        aggregation_strategy: str = "simple",
        timeout_s: float | None = None,
    ) -> list[TokenLabels]:
        """Per text its labelled tokens and entities.

        aggregation_strategy: none, simple, first, average or max; how labels make entities.
        """
        check_strategy(aggregation_strategy)
        request = classification_service_pb2.ClassifyTokensRequest(
            model=model,
            texts=texts,
            aggregation_strategy=f"AGGREGATION_STRATEGY_{aggregation_strategy.upper()}",
        )
        response = await self._call(
            self._classification.ClassifyTokens(request, timeout=timeout_s, metadata=self._metadata)
        )
        return [
            TokenLabels(tuple(to_spans(result.tokens)), tuple(to_spans(result.entities)))
            for result in response.results
        ]

    async def list_models(self, *, timeout_s: float | None = None) -> list[RemoteModel]:
        """In the order given to the server."""
        request = model_service_pb2.ListModelsRequest()
        response = await self._call(self._models.ListModels(request, timeout=timeout_s))
        return [to_model(model) for model in response.models]

    async def _call(self, call: Awaitable[Response]) -> Response:
        with self._errors():
            return await call

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._address) from None
