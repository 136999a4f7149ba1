"""Requests with as little said as a test needs to say."""

from __future__ import annotations

from phi3svc.engine.request import ClassifyRequest, GenerateRequest, SamplingParams

GREEDY = SamplingParams()


def generate(
    request_id: str,
    prompt_ids: list[int],
    max_new_tokens: int,
    *,
    sampling: SamplingParams = GREEDY,
    stop_token_ids: tuple[int, ...] = (),
    model: str = "tiny",
    tenant: str = "",
    cache_salt: str = "",
    priority: int = 0,
    deadline_s: float | None = None,
    min_new_tokens: int = 0,
    n: int = 1,
    num_top_logprobs: int = 0,
    want_prompt_logprobs: bool = False,
) -> GenerateRequest:
    return GenerateRequest(
        request_id,
        model,
        prompt_ids,
        sampling,
        max_new_tokens,
        list(stop_token_ids),
        want_logprobs=True,
        tenant=tenant,
        cache_salt=cache_salt,
        priority=priority,
        deadline_s=deadline_s,
        min_new_tokens=min_new_tokens,
        n=n,
        num_top_logprobs=num_top_logprobs,
        want_prompt_logprobs=want_prompt_logprobs,
    )


def classify(
    request_id: str,
    prompt_ids: list[int],
    *,
    per_token: bool = False,
    model: str = "tiny",
    tenant: str = "",
) -> ClassifyRequest:
    return ClassifyRequest(request_id, model, prompt_ids, per_token, tenant)
