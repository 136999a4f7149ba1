"""Requests of the wire to domain values, validated in full before anything is allocated.

Every numeric field and every list is bounded here; what depends on the number of tokens is checked
after tokenizing, by `fit_answer`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from phi3svc.engine.request import (
    MAX_COALESCE_MS,
    MAX_PRIORITY,
    MAX_SEQUENCES_PER_REQUEST,
    MAX_SHARER_LEN,
    MAX_TOP_LOGPROBS,
    SamplingParams,
)
from phi3svc.errors import FieldViolation, PromptTooLong
from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.sampling import check_sampling, check_stop, read_sampling
from phi3svc.service.validation import Violations
from phi3svc.text.chat import MAX_MESSAGES, ROLES
from phi3svc.v1 import chat_pb2, classification_service_pb2, generation_service_pb2

# What an answer may have when the request does not say; a forgotten limit should not cost a
# long-context model's whole window.
DEFAULT_MAX_NEW_TOKENS = 1024
MAX_TEXTS = 256

Chat = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GenerateCall:
    """A valid Generate request; only the length of its prompt is still unknown.

    prompt: text, (role, content) turns, or token ids. max_new_tokens: None if the caller did not
    say. coalesce_ms: how long text may wait for company.
    """

    request_id: str
    model: ServedModel
    prompt: str | Chat | list[int]
    sampling: SamplingParams
    max_new_tokens: int | None
    min_new_tokens: int
    stop_strings: tuple[str, ...]
    stop_token_ids: list[int]
    num_sequences: int
    wants_logprobs: bool
    num_top_logprobs: int
    wants_prompt_logprobs: bool
    wants_token_ids: bool
    coalesce_ms: int
    cache_salt: str
    priority: int

    @property
    def input_field(self) -> str:
        """The request's field that holds the prompt."""
        match self.prompt:
            case str():
                return "prompt"
            case tuple():
                return "chat"
            case _:
                return "token_ids"


@dataclass(frozen=True)
class ClassifyCall:
    """A valid Classify or ClassifyTokens request.

    aggregation_strategy: one of `entities.STRATEGIES`; only ClassifyTokens has a use for it.
    """

    request_id: str
    model: ServedModel
    texts: list[str]
    aggregation_strategy: str


def read_generate(
    request: generation_service_pb2.GenerateRequest, catalog: Catalog
) -> GenerateCall:
    """Raises InvalidRequest with every violation, NotFound, UnsupportedTask or PromptTooLong."""
    violations = Violations()
    model = catalog.find(request.model, "generation", violations)
    violations.request_id(request.request_id)
    _check_input(request, model, violations)
    check_sampling(request.sampling, model, violations)
    check_stop(request.stop, model, violations)
    output = request.output
    num_sequences = request.sampling.n if request.sampling.HasField("n") else 1
    violations.number("sampling.n", num_sequences, 1, MAX_SEQUENCES_PER_REQUEST)
    violations.number("output.top_logprobs", output.top_logprobs, 0, MAX_TOP_LOGPROBS)
    violations.number("output.coalesce_ms", output.coalesce_ms, 0, MAX_COALESCE_MS)
    violations.number("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
    violations.label("cache_salt", request.cache_salt, MAX_SHARER_LEN)
    violations.raise_if_any()
    assert model is not None  # else there is a violation
    stop = request.stop
    eos_ids = () if stop.ignore_eos else model.eos_token_ids
    return GenerateCall(
        request_id=request.request_id or draw_request_id(),
        model=model,
        prompt=_prompt(request),
        sampling=read_sampling(request.sampling, model.info.config.generation),
        max_new_tokens=stop.max_new_tokens if stop.HasField("max_new_tokens") else None,
        min_new_tokens=stop.min_new_tokens,
        stop_strings=tuple(stop.strings),
        stop_token_ids=sorted({*eos_ids, *stop.token_ids}),
        num_sequences=num_sequences,
        wants_logprobs=output.logprobs,
        num_top_logprobs=output.top_logprobs,
        wants_prompt_logprobs=output.prompt_logprobs,
        wants_token_ids=output.token_ids,
        coalesce_ms=output.coalesce_ms,
        cache_salt=request.cache_salt,
        priority=request.priority,
    )


def read_classify(
    request: classification_service_pb2.ClassifyRequest
    | classification_service_pb2.ClassifyTokensRequest,
    catalog: Catalog,
    task: str,
) -> ClassifyCall:
    """Raises InvalidRequest with every violation, NotFound or UnsupportedTask."""
    violations = Violations()
    model = catalog.find(request.model, task, violations)
    violations.request_id(request.request_id)
    violations.count("texts", request.texts, 1, MAX_TEXTS)
    for i, text in enumerate(request.texts[:MAX_TEXTS]):
        if not text:
            violations.add(f"texts[{i}]", "empty, must have at least one character")
        violations.text(f"texts[{i}]", text)
    strategy = ""
    if isinstance(request, classification_service_pb2.ClassifyTokensRequest):
        strategy = _aggregation_strategy(request.aggregation_strategy, violations)
    violations.raise_if_any()
    assert model is not None  # else there is a violation
    request_id = request.request_id or draw_request_id()
    return ClassifyCall(request_id, model, list(request.texts), strategy)


def _aggregation_strategy(value: int, violations: Violations) -> str:
    names = classification_service_pb2.AggregationStrategy
    if value == names.Value("AGGREGATION_STRATEGY_UNSPECIFIED"):
        return "simple"
    if value not in names.values():
        violations.number("aggregation_strategy", value, 0, max(names.values()))
        return ""
    return str(names.Name(value)).removeprefix("AGGREGATION_STRATEGY_").lower()


def read_chat(field: str, chat: chat_pb2.ChatInput, violations: Violations) -> Chat:
    """The turns as (role, content), checked."""
    violations.count(f"{field}.messages", chat.messages, 1, MAX_MESSAGES)
    for i, message in enumerate(chat.messages[:MAX_MESSAGES]):
        if message.role not in ROLES:
            allowed = ", ".join(ROLES)
            role = message.role[:40]
            violations.add(f"{field}.messages[{i}].role", f"{role!r}, must be one of {allowed}")
        violations.text(f"{field}.messages[{i}].content", message.content)
    return tuple((m.role, m.content) for m in chat.messages[:MAX_MESSAGES])


def fit_answer(call: GenerateCall, num_prompt_tokens: int) -> int:
    """How many tokens to generate at most. Raises PromptTooLong when the context cannot hold it."""
    max_context_len = call.model.info.max_context_len
    room = max_context_len - num_prompt_tokens
    num_new = call.max_new_tokens or max(call.min_new_tokens, 1)
    if num_new <= room:
        if call.max_new_tokens is None:
            return max(num_new, min(room, DEFAULT_MAX_NEW_TOKENS))
        return num_new
    raise prompt_too_long(call.input_field, num_prompt_tokens, max_context_len, num_new)


def prompt_too_long(
    field: str, num_prompt_tokens: int, max_context_len: int, num_new_tokens: int = 0
) -> PromptTooLong:
    """The error with its numbers, in words and as values."""
    sizes = {"prompt_token_count": num_prompt_tokens, "max_context_token_count": max_context_len}
    asked = f"{num_prompt_tokens} tokens"
    if num_new_tokens:
        sizes["max_new_tokens"] = num_new_tokens
        asked += f" and {num_new_tokens} new ones"
    description = f"{asked}, the model's context holds {max_context_len}"
    return PromptTooLong(FieldViolation(field, description), sizes=sizes)


def draw_request_id() -> str:
    return secrets.token_hex(8)


def _check_input(
    request: generation_service_pb2.GenerateRequest,
    model: ServedModel | None,
    violations: Violations,
) -> None:
    match request.WhichOneof("input"):
        case "prompt":
            violations.text("prompt", request.prompt)
        case "chat":
            read_chat("chat", request.chat, violations)
        case "token_ids":
            ids: Sequence[int] = request.token_ids.ids
            if not ids:
                violations.add("token_ids.ids", "empty, must have at least one token")
            if model is not None:
                if len(ids) >= model.info.max_context_len:
                    raise prompt_too_long("token_ids", len(ids), model.info.max_context_len, 1)
                violations.token_ids("token_ids.ids", ids, model.info.config.vocab_size)
        case _:
            violations.add("input", "unset, one of prompt, chat or token_ids must be given")


def _prompt(request: generation_service_pb2.GenerateRequest) -> str | Chat | list[int]:
    match request.WhichOneof("input"):
        case "prompt":
            return str(request.prompt)
        case "chat":
            return tuple((m.role, m.content) for m in request.chat.messages)
        case _:
            return list(request.token_ids.ids)
