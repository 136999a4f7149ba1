"""Requests of the wire to domain values, validated in full before anything is allocated.

Every numeric field and every list is bounded here; what depends on the number of tokens is checked
after tokenizing, by `fit_answer`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3svc.config.model import GenerationDefaults
from phi3svc.engine.request import (
    MAX_LOGIT_BIAS,
    MAX_LOGIT_BIASES,
    MAX_PENALTY,
    MAX_PRIORITY,
    MAX_REPETITION_PENALTY,
    MAX_SHARER_LEN,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPETITION_PENALTY,
    SamplingParams,
)
from phi3svc.errors import FieldViolation, PromptTooLong
from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.validation import MAX_VIOLATIONS_PER_LIST, Violations
from phi3svc.text.chat import MAX_MESSAGES, ROLES
from phi3svc.v1 import chat_pb2, classification_service_pb2, generation_service_pb2, sampling_pb2

# What an answer may have when the request does not say; a forgotten limit should not cost a
# long-context model's whole window.
DEFAULT_MAX_NEW_TOKENS = 1024
MAX_TEXTS = 256
MAX_STOP_STRINGS = 64
MAX_STOP_STRING_LEN = 256
MAX_STOP_TOKEN_IDS = 256
MAX_COALESCE_MS = 10_000
_GREEDY = GenerationDefaults(temperature=0.0, top_k=0, top_p=1.0)

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
    wants_logprobs: bool
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
    """A valid Classify or ClassifyTokens request."""

    request_id: str
    model: ServedModel
    texts: list[str]


def read_generate(
    request: generation_service_pb2.GenerateRequest, catalog: Catalog
) -> GenerateCall:
    """Raises InvalidRequest with every violation, NotFound, UnsupportedTask or PromptTooLong."""
    violations = Violations()
    model = catalog.find(request.model, "generation", violations)
    violations.request_id(request.request_id)
    _check_input(request, model, violations)
    _check_sampling(request.sampling, model, violations)
    _check_stop(request.stop, model, violations)
    violations.number("output.coalesce_ms", request.output.coalesce_ms, 0, MAX_COALESCE_MS)
    violations.number("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
    violations.label("cache_salt", request.cache_salt, MAX_SHARER_LEN)
    violations.raise_if_any()
    assert model is not None  # else there is a violation
    stop = request.stop
    eos_ids = () if stop.ignore_eos else model.info.config.eos_token_ids
    return GenerateCall(
        request_id=request.request_id or draw_request_id(),
        model=model,
        prompt=_prompt(request),
        sampling=_sampling(request.sampling, model.info.config.generation),
        max_new_tokens=stop.max_new_tokens if stop.HasField("max_new_tokens") else None,
        min_new_tokens=stop.min_new_tokens,
        stop_strings=tuple(stop.strings),
        stop_token_ids=sorted({*eos_ids, *stop.token_ids}),
        wants_logprobs=request.output.logprobs,
        wants_token_ids=request.output.token_ids,
        coalesce_ms=request.output.coalesce_ms,
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
    violations.raise_if_any()
    assert model is not None  # else there is a violation
    return ClassifyCall(request.request_id or draw_request_id(), model, list(request.texts))


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


def _check_sampling(
    sampling: sampling_pb2.SamplingParams, model: ServedModel | None, violations: Violations
) -> None:
    # seed may be any 64-bit number, and any top_k is a valid count.
    if sampling.HasField("temperature"):
        violations.number("sampling.temperature", sampling.temperature, 0, MAX_TEMPERATURE)
    for name in ("top_p", "typical_p"):
        value = getattr(sampling, name)
        if sampling.HasField(name) and not 0 < value <= 1:
            violations.add(f"sampling.{name}", f"{value:g}, must be above 0 and at most 1")
    for name, low, high in (
        ("min_p", 0, 1),
        ("repetition_penalty", MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY),
        ("presence_penalty", -MAX_PENALTY, MAX_PENALTY),
        ("frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
    ):
        if sampling.HasField(name):
            violations.number(f"sampling.{name}", getattr(sampling, name), low, high)
    _check_logit_bias(sampling.logit_bias, model, violations)


def _check_logit_bias(
    logit_bias: Mapping[int, float], model: ServedModel | None, violations: Violations
) -> None:
    if len(logit_bias) > MAX_LOGIT_BIASES:
        size = f"{len(logit_bias)} items, must be 0 to {MAX_LOGIT_BIASES}"
        violations.add("sampling.logit_bias", size)
        return
    num_bad = 0
    for token_id, bias in sorted(logit_bias.items()):
        field = f"sampling.logit_bias[{token_id}]"
        if model is not None and token_id >= model.info.config.vocab_size:
            violations.add(
                field, f"token {token_id}, must be 0 to {model.info.config.vocab_size - 1}"
            )
        elif -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
            continue
        else:
            violations.number(field, bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
        num_bad += 1
        if num_bad == MAX_VIOLATIONS_PER_LIST:
            return


def _check_stop(
    stop: sampling_pb2.StopCriteria, model: ServedModel | None, violations: Violations
) -> None:
    if stop.HasField("max_new_tokens"):
        limit = 2**31 - 1 if model is None else model.info.max_context_len - 1
        violations.number("stop.max_new_tokens", stop.max_new_tokens, 1, limit)
    # Against a bad maximum, a minimum need not be judged.
    if stop.HasField("max_new_tokens"):
        limit = max(stop.max_new_tokens, 1)
    else:
        limit = 2**31 - 1 if model is None else model.info.max_context_len - 1
    violations.number("stop.min_new_tokens", stop.min_new_tokens, 0, limit)
    violations.count("stop.strings", stop.strings, 0, MAX_STOP_STRINGS)
    for i, text in enumerate(stop.strings[:MAX_STOP_STRINGS]):
        if not 1 <= len(text) <= MAX_STOP_STRING_LEN:
            size = f"{len(text)} characters, must be 1 to {MAX_STOP_STRING_LEN}"
            violations.add(f"stop.strings[{i}]", size)
    violations.count("stop.token_ids", stop.token_ids, 0, MAX_STOP_TOKEN_IDS)
    if model is not None:
        ids = stop.token_ids[:MAX_STOP_TOKEN_IDS]
        violations.token_ids("stop.token_ids", ids, model.info.config.vocab_size)


def _prompt(request: generation_service_pb2.GenerateRequest) -> str | Chat | list[int]:
    match request.WhichOneof("input"):
        case "prompt":
            return str(request.prompt)
        case "chat":
            return tuple((m.role, m.content) for m in request.chat.messages)
        case _:
            return list(request.token_ids.ids)


def _sampling(
    sampling: sampling_pb2.SamplingParams, checkpoint: GenerationDefaults
) -> SamplingParams:
    """Unset fields from a checkpoint that samples, else greedy, unfiltered; no seed: draws one.

    An unset repetition penalty is the checkpoint's in either case, as in transformers.
    """
    defaults = checkpoint if checkpoint.do_sample else _GREEDY
    top_k = sampling.top_k if sampling.HasField("top_k") else defaults.top_k
    return SamplingParams(
        temperature=(
            sampling.temperature if sampling.HasField("temperature") else defaults.temperature
        ),
        # More than any vocabulary holds changes nothing, and the engine counts in 31 bits.
        top_k=min(top_k, MAX_TOP_K),
        top_p=sampling.top_p if sampling.HasField("top_p") else defaults.top_p,
        seed=sampling.seed if sampling.HasField("seed") else secrets.randbits(64),
        min_p=sampling.min_p if sampling.HasField("min_p") else defaults.min_p,
        typical_p=sampling.typical_p if sampling.HasField("typical_p") else defaults.typical_p,
        repetition_penalty=(
            sampling.repetition_penalty
            if sampling.HasField("repetition_penalty")
            else checkpoint.repetition_penalty
        ),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
    )
