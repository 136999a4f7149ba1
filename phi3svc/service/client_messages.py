"""What the client says and hears: messages of the wire, and the plain values they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from phi3svc.engine.events import (
    Completed,
    Delta,
    Finished,
    PromptLogprobs,
    Started,
    StreamEndReason,
    TextEvent,
    TopLogprobs,
)
from phi3svc.v1 import (
    chat_pb2,
    classification_service_pb2,
    generation_service_pb2,
    model_service_pb2,
)

_REASONS: dict[int, StreamEndReason] = {
    generation_service_pb2.FINISH_REASON_STOP_TOKEN: "stop_token",
    generation_service_pb2.FINISH_REASON_STOP_STRING: "stop_string",
    generation_service_pb2.FINISH_REASON_LENGTH: "length",
}
_TASKS: dict[int, str] = {
    model_service_pb2.TASK_GENERATION: "generation",
    model_service_pb2.TASK_SEQUENCE_CLASSIFICATION: "sequence-classification",
    model_service_pb2.TASK_TOKEN_CLASSIFICATION: "token-classification",
}


@dataclass(frozen=True)
class LabelScore:
    """A label of a text. score: probability, or the raw value of a regression model."""

    label: str
    score: float


@dataclass(frozen=True)
class Span:
    """A labelled token or entity: characters `start` up to, not including, `end` of its text."""

    label: str
    score: float
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TokenLabels:
    """Every token of a text with its label, and the entities they form."""

    tokens: tuple[Span, ...]
    entities: tuple[Span, ...]


@dataclass(frozen=True)
class RemoteModel:
    """A model as the server describes it. tasks: as in `ModelInfo`; labels: by class."""

    name: str
    tasks: frozenset[str]
    architecture: str
    dtype: str
    max_context_len: int
    vocab_size: int
    num_params: int
    labels: tuple[str, ...]
    fingerprint: str


def set_prompt(
    request: generation_service_pb2.GenerateRequest,
    prompt: str | Sequence[tuple[str, str]] | Sequence[int],
) -> None:
    """Text, a conversation as (role, content) turns, or token ids."""
    if isinstance(prompt, str):
        request.prompt = prompt
        return
    turns = [item for item in prompt if isinstance(item, tuple)]
    if turns:
        messages = [chat_pb2.ChatMessage(role=role, content=content) for role, content in turns]
        request.chat.messages.extend(messages)
    else:
        request.token_ids.ids.extend(item for item in prompt if isinstance(item, int))
        request.token_ids.SetInParent()


def to_event(response: generation_service_pb2.GenerateResponse) -> TextEvent | None:
    """None for an event that a newer server has and this client does not know."""
    match response.WhichOneof("event"):
        case "started":
            started = response.started
            return Started(
                started.request_id,
                started.model,
                started.seed,
                started.prompt_token_count,
                started.cached_prompt_token_count,
            )
        case "delta":
            delta = response.delta
            return Delta(
                delta.text,
                tuple(delta.token_ids),
                tuple(delta.logprobs),
                delta.index,
                _to_top(delta.top_logprobs),
            )
        case "prompt_logprobs":
            piece = response.prompt_logprobs
            return PromptLogprobs(piece.start, tuple(piece.logprobs), _to_top(piece.top_logprobs))
        case "finished":
            finished = response.finished
            return Finished(
                _REASONS[finished.reason],
                finished.stop_string or None,
                finished.token_count,
                finished.digest,
                finished.index,
            )
        case "completed":
            usage, timings = response.completed.usage, response.completed.timings
            return Completed(
                usage.prompt_token_count,
                usage.generated_token_count,
                timings.queue_wait_ms / 1000,
                timings.time_to_first_token_ms / 1000,
                timings.total_ms / 1000,
                usage.drafted_token_count,
                usage.accepted_token_count,
            )
        case _:
            return None


def _to_top(places: Iterable[generation_service_pb2.TopLogprobs]) -> tuple[TopLogprobs, ...]:
    return tuple(TopLogprobs(list(top.token_ids), list(top.logprobs)) for top in places)


def to_spans(
    items: Iterable[classification_service_pb2.TokenLabel | classification_service_pb2.Entity],
) -> Iterator[Span]:
    for item in items:
        yield Span(item.label, item.score, item.text, item.start, item.end)


def to_model(model: model_service_pb2.Model) -> RemoteModel:
    return RemoteModel(
        name=model.name,
        tasks=frozenset(_TASKS[task] for task in model.tasks if task in _TASKS),
        architecture=model.architecture,
        dtype=model.dtype,
        max_context_len=model.max_context_token_count,
        vocab_size=model.vocab_size,
        num_params=model.parameter_count,
        labels=tuple(model.labels),
        fingerprint=model.fingerprint,
    )
