"""From token events to text: detokenized, cut at stop strings, coalesced, with a digest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec

from phi3svc.engine.async_engine import EngineClient
from phi3svc.engine.events import (
    Completed,
    Delta,
    Finished,
    PromptEvent,
    Started,
    StreamEndReason,
    TextEvent,
)
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.text.detokenizer import Detokenizer
from phi3svc.text.tokenizer import Tokenizer


async def generate_text(
    client: EngineClient,
    request: GenerateRequest,
    tokenizer: Tokenizer,
    *,
    stop_strings: Sequence[str] = (),
) -> AsyncGenerator[TextEvent, None]:
    """Yield Started, Deltas, Finished and Completed for one request; raises as the client does.

    stop_strings: text in which any of them is complete ends there, without it; the stream then
    finishes with the token that completed it, whatever the engine has computed beyond. A delta
    has all that came since the one before, so a slow consumer gets fewer and larger ones.

    Closing this iterator, or cancelling the task that waits in it, cancels the request at once.
    """
    started_s = time.monotonic()
    detokenizer = Detokenizer(tokenizer, stop_strings)
    token_ids: list[int] = []
    queue_s = first_token_s = total_s = 0.0
    reason: StreamEndReason | None = None
    stop_string: str | None = None
    async with aclosing(client.generate(request)) as events:
        async for event in events:
            if isinstance(event, PromptEvent):
                continue
            if not token_ids:
                first_token_s = time.monotonic() - started_s
                yield Started(
                    request.request_id,
                    request.model,
                    request.sampling.seed,
                    len(request.prompt_ids),
                    event.timings.cached_prompt_token_count if event.timings else 0,
                )
            if event.timings is not None:
                queue_s = event.timings.queue_s
            # A stop token ends the text and is no part of it.
            num_text_tokens = len(event.token_ids) - (event.finish == "stop_token")
            output = detokenizer.push(event.token_ids[:num_text_tokens])
            text, num_new = output.text, len(event.token_ids)
            if output.stop_string is not None:
                reason, stop_string, num_new = "stop_string", output.stop_string, output.num_tokens
            elif event.finish is not None:
                reason = event.finish
                text += detokenizer.finish()
            new_ids = event.token_ids[:num_new]
            token_ids += new_ids
            # Before the yield: how long the reader takes is not the answer's time.
            total_s = time.monotonic() - started_s
            yield Delta(
                text, tuple(new_ids), tuple(event.logprobs[:num_new]), is_last=reason is not None
            )
            if reason is not None:
                break
    assert reason is not None, "the engine ended a stream without a reason"
    fingerprint = client.models[request.model].fingerprint
    yield Finished(
        reason,
        stop_string,
        len(token_ids),
        stream_digest(fingerprint, request, stop_strings, token_ids),
    )
    yield Completed(
        prompt_token_count=len(request.prompt_ids),
        completion_token_count=len(token_ids),
        queue_s=queue_s,
        first_token_s=first_token_s,
        total_s=total_s,
    )


def stream_digest(
    fingerprint: str,
    request: GenerateRequest,
    stop_strings: Iterable[str],
    token_ids: Sequence[int],
) -> str:
    """Hex SHA-256 over checkpoint, request and answer, so that two replicas can be compared.

    Only what decides the answer counts: stop conditions as sets, and no setting that says how to
    draw, seed included, when decoding is greedy.
    """
    sampling = request.sampling
    drawing = sampling if sampling.temperature > 0 else SamplingParams()
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
        )
    )
    return hashlib.sha256(canonical).hexdigest()
