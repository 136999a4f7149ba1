"""From token events to text: detokenized, cut at stop strings, with a digest."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import structs

from phi3svc.engine.async_engine import EngineClient
from phi3svc.engine.events import (
    Completed,
    Delta,
    Finished,
    PromptEvent,
    PromptLogprobs,
    Started,
    StreamEndReason,
    TextEvent,
    TokenEvent,
)
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.token_stream import GeneratedEvent
from phi3svc.text.detokenizer import Detokenizer
from phi3svc.text.stop_strings import StopStrings
from phi3svc.text.tokenizer import Tokenizer

MAX_TOKENS_PER_EVENT = 4096
"""With 20 alternatives each they come to well below gRPC's default limit of 4 MiB a message."""


async def generate_text(
    client: EngineClient,
    request: GenerateRequest,
    tokenizer: Tokenizer,
    *,
    stop_strings: Sequence[str] = (),
) -> AsyncGenerator[TextEvent, None]:
    """Yield Started, PromptLogprobs, Deltas and Finished of every sequence, and Completed.

    Raises as the client does. stop_strings: a sequence in whose text any of them is complete ends
    there, without it, and finishes with the token that completed it, whatever the engine has
    computed beyond; the others go on. A delta has all that came of its sequence since the one
    before, so a slow consumer gets fewer and larger ones.

    Closing this iterator, or cancelling the task that waits in it, cancels the request at once.
    """
    opened_s = time.monotonic()
    stops = StopStrings(stop_strings)
    answers = [_Answer(index, Detokenizer(tokenizer, stops)) for index in range(request.n)]
    fingerprint = ""
    queue_s: float | None = None
    first_token_s = total_s = 0.0
    is_started = False
    async with aclosing(client.generate(request)) as stream:
        async for event in stream:
            # Before any yield: how long the reader takes is not the answer's time.
            total_s = time.monotonic() - opened_s
            if not is_started:
                is_started = True
                fingerprint = client.models[request.model].fingerprint
                yield _started(request, event)
            if isinstance(event, PromptEvent):
                for piece in _prompt_logprobs(event):
                    yield piece
                continue
            first_token_s = first_token_s or total_s
            if queue_s is None and event.timings is not None:
                queue_s = event.timings.queue_s
            answer = answers[event.index]
            parts = _parts(event)
            while parts:
                delta = answer.take(parts.popleft())
                if not answer.has_ended:
                    yield delta
                    continue
                stream.stop(event.index)
                yield delta
                yield answer.finished(fingerprint, request, stop_strings)
                break
    yield Completed(
        prompt_token_count=len(request.prompt_ids),
        completion_token_count=sum(len(answer.token_ids) for answer in answers),
        queue_s=queue_s or 0.0,
        first_token_s=first_token_s,
        total_s=total_s,
        drafted_token_count=sum(answer.num_drafted for answer in answers),
        accepted_token_count=sum(answer.num_accepted for answer in answers),
    )


def stream_digest(
    fingerprint: str,
    request: GenerateRequest,
    stop_strings: Iterable[str],
    token_ids: Sequence[int],
    index: int = 0,
) -> str:
    """Hex SHA-256 over checkpoint, request and answer, so that two replicas can be compared.

    Only what decides the answer counts: stop conditions as sets, and nothing that says how to draw,
    seed and the sequence's index included, when decoding is greedy.
    """
    sampling = request.sampling
    drawing = sampling if sampling.temperature > 0 else SamplingParams()
    # Without an index where it is 0: the first of n answers is the answer of a request for one.
    place = (index,) if index and sampling.temperature > 0 else ()
    canonical = msgspec.msgpack.encode(
        (
            "phi3svc.v1",
            fingerprint,
            request.prompt_ids,
            (drawing.temperature, drawing.top_k, drawing.top_p, drawing.seed),
            (drawing.min_p, drawing.typical_p),
            (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty),
            sorted(sampling.logit_bias.items()),
            request.min_new_tokens,
            request.max_new_tokens,
            sorted(set(request.stop_token_ids)),
            sorted(set(stop_strings)),
            list(token_ids),
            *place,
        )
    )
    return hashlib.sha256(canonical).hexdigest()


class _Answer:
    """One sequence's tokens on their way to text.

    num_drafted, num_accepted: tokens that speculation guessed, and those that were right.
    """

    def __init__(self, index: int, detokenizer: Detokenizer) -> None:
        self._index = index
        self._detokenizer = detokenizer
        self.token_ids: list[int] = []
        self._reason: StreamEndReason | None = None
        self._stop_string: str | None = None
        self.num_drafted = 0
        self.num_accepted = 0

    @property
    def has_ended(self) -> bool:
        return self._reason is not None

    def take(self, event: TokenEvent) -> Delta:
        """The next tokens."""
        if event.timings is not None:
            self.num_drafted = event.timings.drafted_token_count
            self.num_accepted = event.timings.accepted_token_count
        # A stop token ends the text and is no part of it.
        num_text_tokens = len(event.token_ids) - (event.finish == "stop_token")
        output = self._detokenizer.push(event.token_ids[:num_text_tokens])
        text, num_new = output.text, len(event.token_ids)
        if output.stop_string is not None:
            self._reason, self._stop_string = "stop_string", output.stop_string
            num_new = output.num_tokens
        elif event.finish is not None:
            self._reason = event.finish
            text += self._detokenizer.finish()
        new_ids = event.token_ids[:num_new]
        self.token_ids += new_ids
        return Delta(
            text,
            tuple(new_ids),
            tuple(event.logprobs[:num_new]),
            self._index,
            tuple(event.top[:num_new]),
        )

    def finished(
        self, fingerprint: str, request: GenerateRequest, stop_strings: Iterable[str]
    ) -> Finished:
        """Once it has ended."""
        assert self._reason is not None
        digest = stream_digest(fingerprint, request, stop_strings, self.token_ids, self._index)
        return Finished(self._reason, self._stop_string, len(self.token_ids), digest, self._index)


def _started(request: GenerateRequest, first: GeneratedEvent) -> Started:
    # Whose prompt's log probabilities are asked for has it computed in full.
    timings = first.timings if isinstance(first, TokenEvent) else None
    return Started(
        request.request_id,
        request.model,
        request.sampling.seed,
        len(request.prompt_ids),
        timings.cached_prompt_token_count if timings is not None else 0,
    )


def _prompt_logprobs(event: PromptEvent) -> Iterator[PromptLogprobs]:
    for i in range(0, len(event.logprobs), MAX_TOKENS_PER_EVENT):
        part = slice(i, i + MAX_TOKENS_PER_EVENT)
        yield PromptLogprobs(event.start + i, tuple(event.logprobs[part]), tuple(event.top[part]))


def _parts(event: TokenEvent) -> deque[TokenEvent]:
    """The event cut into small ones; the last says what it says about the end of the sequence."""
    if len(event.token_ids) <= MAX_TOKENS_PER_EVENT:
        return deque([event])
    parts = deque[TokenEvent]()
    for i in range(0, len(event.token_ids), MAX_TOKENS_PER_EVENT):
        part = slice(i, i + MAX_TOKENS_PER_EVENT)
        parts.append(
            structs.replace(
                event,
                token_ids=event.token_ids[part],
                logprobs=event.logprobs[part],
                top=event.top[part],
                finish=event.finish if part.stop >= len(event.token_ids) else None,
            )
        )
    return parts
