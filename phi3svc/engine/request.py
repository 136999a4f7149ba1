"""What is asked of an engine: plain values that cross the process boundary as msgpack.

Requests are resolved: no optional sampling setting, no text. Whoever builds one has already chosen
defaults, drawn a seed and tokenized. Decoding is strict: a wrong type, an unknown field or a value
out of range is a `msgspec.ValidationError`.
"""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, Struct

from phi3svc.errors import FieldViolation, InvalidRequest, PromptTooLong

MAX_REQUEST_ID_LEN = 256
MAX_TEMPERATURE = 100.0
MAX_INT32 = 2**31 - 1
MAX_TOP_K = MAX_INT32
MAX_SEED = 2**64 - 1
MIN_REPETITION_PENALTY = 0.009999999776482582
"""0.01 as a float32, which is what the wire carries."""
MAX_REPETITION_PENALTY = 100.0
MAX_PENALTY = 2.0
"""Of presence and frequency, either sign; OpenAI's bound."""
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100.0
MAX_STOP_TOKEN_IDS = 1024
MAX_SHARER_LEN = 128
MAX_PRIORITY = 100
MAX_SEQUENCES_PER_REQUEST = 64
MAX_TOP_LOGPROBS = 20
MAX_COALESCE_MS = 10_000

RequestId = Annotated[str, Meta(min_length=1, max_length=MAX_REQUEST_ID_LEN)]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Priority = Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
SharerName = Annotated[str, Meta(max_length=MAX_SHARER_LEN)]
TokenId = Annotated[int, Meta(ge=0, le=MAX_INT32)]


class SamplingParams(Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is chosen.

    temperature: 0 is greedy, the lowest id wins ties. top_k: 0 is off; ties with the k-th stay.
    top_p: 1 is off; meaning as in transformers. seed: any unsigned 64-bit number; together with
    the token's index in its sequence it fixes the random number, so a stream can be replayed.

    min_p: 0 is off. typical_p: 1 is off. repetition_penalty: 1 is off; over prompt and answer.
    These as in transformers. presence_penalty, frequency_penalty: 0 is off; over the answer alone,
    as OpenAI has them. logit_bias: token id to what is added to its logit. Order: repetition,
    presence and frequency, biases; then, unless greedy, temperature, top_k, top_p, min_p and
    typical_p.
    """

    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=MAX_TOP_K)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, Meta(ge=0)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[
        float, Meta(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)
    ] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-MAX_PENALTY, le=MAX_PENALTY)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-MAX_PENALTY, le=MAX_PENALTY)] = 0.0
    logit_bias: Annotated[
        dict[TokenId, Annotated[float, Meta(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]],
        Meta(max_length=MAX_LOGIT_BIASES),
    ] = {}

    @property
    def has_penalty(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    def violations(self) -> list[FieldViolation]:
        """Every value out of range; fields are named as in the proto. NaN is out of range."""
        found = []
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            found.append(
                FieldViolation(
                    "sampling.temperature", f"{self.temperature}, not in 0..{MAX_TEMPERATURE:g}"
                )
            )
        if not 0 <= self.top_k <= MAX_TOP_K:
            found.append(FieldViolation("sampling.top_k", f"{self.top_k}, not in 0..{MAX_TOP_K}"))
        if not 0 < self.top_p <= 1:
            found.append(FieldViolation("sampling.top_p", f"{self.top_p}, not in (0, 1]"))
        if not 0 <= self.seed <= MAX_SEED:
            found.append(FieldViolation("sampling.seed", f"{self.seed}, not in 0..2^64-1"))
        if not 0 <= self.min_p <= 1:
            found.append(FieldViolation("sampling.min_p", f"{self.min_p}, not in 0..1"))
        if not 0 < self.typical_p <= 1:
            found.append(FieldViolation("sampling.typical_p", f"{self.typical_p}, not in (0, 1]"))
        for name, value, low, high in (
            (
                "repetition_penalty",
                self.repetition_penalty,
                MIN_REPETITION_PENALTY,
                MAX_REPETITION_PENALTY,
            ),
            ("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY),
            ("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY),
        ):
            if not low <= value <= high:
                found.append(
                    FieldViolation(f"sampling.{name}", f"{value}, not in {low:g}..{high:g}")
                )
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            found.append(
                FieldViolation(
                    "sampling.logit_bias",
                    f"{len(self.logit_bias)} entries, not at most {MAX_LOGIT_BIASES}",
                )
            )
        for token_id, bias in self.logit_bias.items():
            if not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
                text = f"{bias}, not in {-MAX_LOGIT_BIAS:g}..{MAX_LOGIT_BIAS:g}"
                found.append(FieldViolation(f"sampling.logit_bias[{token_id}]", text))
        return found


class GenerateRequest(Struct, frozen=True, forbid_unknown_fields=True, tag="generate"):
    """Continue a prompt.

    prompt_ids: at least one token. max_new_tokens: the stream also ends where the model's context
    ends, with reason `length` in both cases. stop_token_ids: the stream ends with any of these,
    which is then its last token; empty to ignore end-of-sequence tokens. tenant: on whose behalf.
    cache_salt: the request shares cached prompts with those of the same salt; if empty, with those
    of its tenant that have none either. priority: among the waiting requests of a tenant, higher
    ones start first. deadline_s: by this machine's monotonic clock; the request ends there, failed.
    min_new_tokens: no stop token is chosen before the answer has so many tokens. n: answers to
    give, each with its own random numbers. num_top_logprobs: of the most likely tokens in each
    place. want_prompt_logprobs: of every prompt token but the first, with the top ones as well.
    coalesce_ms: how long tokens may wait for company, the first and the last ones excepted.
    """

    request_id: RequestId
    model: ModelName
    prompt_ids: Annotated[list[TokenId], Meta(min_length=1)]
    sampling: SamplingParams
    max_new_tokens: Annotated[int, Meta(ge=1, le=MAX_INT32)]
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] = []
    want_logprobs: bool = False
    tenant: SharerName = ""
    cache_salt: SharerName = ""
    priority: Priority = 0
    deadline_s: float | None = None
    min_new_tokens: Annotated[int, Meta(ge=0, le=MAX_INT32)] = 0
    n: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES_PER_REQUEST)] = 1
    num_top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    want_prompt_logprobs: bool = False
    coalesce_ms: Annotated[int, Meta(ge=0, le=MAX_COALESCE_MS)] = 0

    @property
    def task(self) -> str:
        return "generation"


class ClassifyRequest(Struct, frozen=True, forbid_unknown_fields=True, tag="classify"):
    """Score a text with the model's head: every token, or the last one for the whole text.

    tenant, cache_salt, priority, deadline_s: as in GenerateRequest.
    """

    request_id: RequestId
    model: ModelName
    prompt_ids: Annotated[list[TokenId], Meta(min_length=1)]
    per_token: bool = False
    tenant: SharerName = ""
    cache_salt: SharerName = ""
    priority: Priority = 0
    deadline_s: float | None = None

    @property
    def task(self) -> str:
        return "token-classification" if self.per_token else "sequence-classification"


class CancelRequest(Struct, frozen=True, forbid_unknown_fields=True, tag="cancel"):
    """Forget a request and free what it holds; unknown ids are ignored, it may just have ended.

    index: of the one sequence to forget, None for all of them.
    """

    request_id: RequestId
    index: Annotated[int, Meta(ge=0, lt=MAX_SEQUENCES_PER_REQUEST)] | None = None


class PauseRequest(Struct, frozen=True, forbid_unknown_fields=True, tag="pause"):
    """Give a request no more tokens for now: its reader is behind. Unknown ids are ignored."""

    request_id: RequestId


class ResumeRequest(Struct, frozen=True, forbid_unknown_fields=True, tag="resume"):
    """Go on with a request that was paused. Unknown ids are ignored."""

    request_id: RequestId


Control = CancelRequest | PauseRequest | ResumeRequest
"""What is said of a request that the engine has."""

Request = GenerateRequest | ClassifyRequest


def check_request(request: Request, vocab_size: int, context_len: int) -> None:
    """Raise InvalidRequest or PromptTooLong if a model of that size can never serve it."""
    prompt_ids = request.prompt_ids
    violations = []
    if not prompt_ids:
        violations.append(FieldViolation("input", "the prompt has no tokens"))
    elif min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
        bad = max(prompt_ids) if min(prompt_ids) >= 0 else min(prompt_ids)
        violations.append(FieldViolation("input", f"token id {bad}, not in 0..{vocab_size - 1}"))
    for field, name in (("x-tenant-id", request.tenant), ("cache_salt", request.cache_salt)):
        if len(name) > MAX_SHARER_LEN:
            size = f"{len(name)} characters, not at most {MAX_SHARER_LEN}"
            violations.append(FieldViolation(field, size))
    if not -MAX_PRIORITY <= request.priority <= MAX_PRIORITY:
        allowed = f"not in {-MAX_PRIORITY}..{MAX_PRIORITY}"
        violations.append(FieldViolation("priority", f"{request.priority}, {allowed}"))
    if request.deadline_s is not None and math.isnan(request.deadline_s):
        violations.append(FieldViolation("deadline_s", "not a number"))
    if isinstance(request, GenerateRequest):
        violations += request.sampling.violations()
        violations += [
            FieldViolation(f"sampling.logit_bias[{i}]", f"token {i}, not in 0..{vocab_size - 1}")
            for i in request.sampling.logit_bias
            if not 0 <= i < vocab_size
        ]
        violations += _stop_violations(request, vocab_size)
        for field, value, low, high in (
            ("sampling.n", request.n, 1, MAX_SEQUENCES_PER_REQUEST),
            ("output.top_logprobs", request.num_top_logprobs, 0, MAX_TOP_LOGPROBS),
        ):
            if not low <= value <= high:
                violations.append(FieldViolation(field, f"{value}, not in {low}..{high}"))
    if violations:
        raise InvalidRequest(*violations)
    check_prompt_len(request, context_len)


def _stop_violations(request: GenerateRequest, vocab_size: int) -> list[FieldViolation]:
    found = []
    if not 1 <= request.max_new_tokens <= MAX_INT32:
        found.append(
            FieldViolation(
                "stop.max_new_tokens", f"{request.max_new_tokens}, not in 1..{MAX_INT32}"
            )
        )
    stop_ids = request.stop_token_ids
    if len(stop_ids) > MAX_STOP_TOKEN_IDS:
        found.append(
            FieldViolation(
                "stop.token_ids", f"{len(stop_ids)} ids, not at most {MAX_STOP_TOKEN_IDS}"
            )
        )
    elif stop_ids and not 0 <= min(stop_ids) <= max(stop_ids) <= MAX_INT32:
        found.append(FieldViolation("stop.token_ids", f"an id not in 0..{MAX_INT32}"))
    if not 0 <= request.min_new_tokens <= max(request.max_new_tokens, 0):
        text = f"{request.min_new_tokens}, not in 0..{request.max_new_tokens} (max_new_tokens)"
        found.append(FieldViolation("stop.min_new_tokens", text))
    if request.min_new_tokens > 0 and _num_below(stop_ids, vocab_size) == vocab_size:
        text = f"{request.min_new_tokens}, but every token is a stop token"
        found.append(FieldViolation("stop.min_new_tokens", text))
    return found


def _num_below(token_ids: list[int], vocab_size: int) -> int:
    """How many distinct ids of the vocabulary are listed."""
    return len({token_id for token_id in token_ids if 0 <= token_id < vocab_size})


def check_prompt_len(request: Request, context_len: int) -> None:
    """Raise PromptTooLong if the prompt, and one token of an answer, exceed `context_len`."""
    is_generation = isinstance(request, GenerateRequest)
    max_prompt_len = context_len - 1 if is_generation else context_len
    if len(request.prompt_ids) > max_prompt_len:
        for_what = "the prompt and at least one new token" if is_generation else "the text"
        raise PromptTooLong(
            FieldViolation(
                "input",
                f"{len(request.prompt_ids)} tokens, not at most {max_prompt_len}:"
                f" the context of {context_len} tokens must hold {for_what}",
            )
        )
