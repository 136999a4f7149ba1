"""Sampling settings and stop criteria of the wire: checked, and filled in from the checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from phi3svc.config.generation_defaults import GenerationDefaults
from phi3svc.engine.request import (
    MAX_LOGIT_BIAS,
    MAX_LOGIT_BIASES,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPETITION_PENALTY,
    SamplingParams,
)
from phi3svc.service.catalog import ServedModel
from phi3svc.service.validation import MAX_VIOLATIONS_PER_LIST, Violations
from phi3svc.v1 import sampling_pb2

MAX_STOP_STRINGS = 64
MAX_STOP_STRING_LEN = 256
MAX_STOP_TOKEN_IDS = 256
_GREEDY = GenerationDefaults(temperature=0.0, top_k=0, top_p=1.0)


def check_sampling(
    sampling: sampling_pb2.SamplingParams, model: ServedModel | None, violations: Violations
) -> None:
    """Everything but `n`, which says how many answers and not how to choose a token."""
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


def check_stop(
    stop: sampling_pb2.StopCriteria, model: ServedModel | None, violations: Violations
) -> None:
    """Lengths, strings and token ids, as far as they can be judged without the prompt."""
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


def read_sampling(
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
