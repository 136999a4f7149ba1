"""What each field of a GenerationConfig may hold, and which of transformers' are missing here."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from phi3svc.engine.request import (
    MAX_INT32,
    MAX_LOGIT_BIAS,
    MAX_LOGIT_BIASES,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_SEQUENCES_PER_REQUEST,
    MAX_STOP_TOKEN_IDS,
    MAX_TEMPERATURE,
    MIN_REPETITION_PENALTY,
)
from phi3svc.errors import InvalidRequest

MAX_BEAMS = 64
MAX_TIME_S = 1e9
MAX_LENGTH_PENALTY = 100.0
MAX_STOP_STRINGS = 256
MAX_STOP_STRING_CHARS = 4096

Check = Callable[[str, Any], Any]
"""Of a field's name and value: the value as it is kept. Raises InvalidRequest."""


def _fail(name: str, value: object, allowed: str) -> NoReturn:
    raise InvalidRequest.of(name, f"{reprlib.repr(value)}, not {allowed}")


def _integer(low: int, high: int = MAX_INT32) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__") or not low <= value <= high:
            _fail(name, value, f"an integer in {low}..{high}")
        return int(value)

    return check


def _number(low: float, high: float, *, above: bool = False) -> Check:
    """low <= value <= high, or low < value if `above`."""
    allowed = f"a number in {'(' if above else '['}{low:g}, {high:g}]"

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            _fail(name, value, allowed)
        number = float(value)
        if math.isnan(number) or not low <= number <= high or (above and number == low):
            _fail(name, value, allowed)
        return number

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _fail(name, value, "True or False")
    return value


def _early_stopping(name: str, value: Any) -> bool | str:
    if not isinstance(value, bool) and value != "never":
        _fail(name, value, 'True, False or "never"')
    return value  # type: ignore[no-any-return]


def _stop_ids(name: str, value: Any) -> int | list[int]:
    """One id stays one, and tensors become lists: a caller finds what a checkpoint's file says."""
    check = _integer(0)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return check(name, value)  # type: ignore[no-any-return]
    if not 1 <= len(value) <= MAX_STOP_TOKEN_IDS:
        _fail(name, value, f"one id or 1 to {MAX_STOP_TOKEN_IDS} of them")
    return [check(f"{name}[{i}]", item) for i, item in enumerate(value)]


def _stop_strings(name: str, value: Any) -> str | list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not 1 <= len(strings) <= MAX_STOP_STRINGS:
        _fail(name, value, f"a string or a list of 1 to {MAX_STOP_STRINGS} strings")
    for i, string in enumerate(strings):
        if not isinstance(string, str) or not 1 <= len(string) <= MAX_STOP_STRING_CHARS:
            _fail(f"{name}[{i}]", string, f"a string of 1 to {MAX_STOP_STRING_CHARS} characters")
    return value if isinstance(value, str) else list(strings)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping) or len(value) > MAX_LOGIT_BIASES:
        _fail(name, value, f"a mapping of at most {MAX_LOGIT_BIASES} token ids to numbers")
    check_id, check_bias = _integer(0), _number(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
    return {
        check_id(f"{name} token", token_id): check_bias(f"{name}[{token_id}]", bias)
        for token_id, bias in value.items()
    }


_TOKEN_ID = _integer(0)
_PENALTY = _number(-MAX_PENALTY, MAX_PENALTY)

CHECKS: Mapping[str, Check] = {
    "max_length": _integer(1),
    "max_new_tokens": _integer(1),
    "min_length": _integer(0),
    "min_new_tokens": _integer(0),
    "early_stopping": _early_stopping,
    "max_time": _number(0, MAX_TIME_S),
    "stop_strings": _stop_strings,
    "do_sample": _flag,
    "num_beams": _integer(1, MAX_BEAMS),
    "use_cache": _flag,
    "temperature": _number(0, MAX_TEMPERATURE),
    "top_k": _integer(0),
    "top_p": _number(0, 1, above=True),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1, above=True),
    "repetition_penalty": _number(MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY),
    "length_penalty": _number(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": _logit_bias,
    "num_return_sequences": _integer(1, MAX_SEQUENCES_PER_REQUEST),
    "output_scores": _flag,
    "output_logits": _flag,
    "return_dict_in_generate": _flag,
    "pad_token_id": _TOKEN_ID,
    "bos_token_id": _TOKEN_ID,
    "eos_token_id": _stop_ids,
    "seed": _integer(0, MAX_SEED),
}

IGNORED = frozenset(
    {
        # How transformers computes, or files its configs; what comes out does not depend on it.
        # The engine looks up guesses in what is there already by itself, where that pays.
        *("cache_implementation", "cache_config", "max_cache_len", "compile_config"),
        *("disable_compile", "prefill_chunk_size", "low_memory", "continuous_batching_config"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
        *("transformers_version", "_from_model_config", "_commit_hash", "decoder_start_token_id"),
        # Settings of assistants, which are refused themselves.
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
        "assistant_ensemble_weight",
    }
)

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "use_mtp": (False,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "renormalize_logits": (False,),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "remove_invalid_values": (False,),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": (),
    "token_healing": (False,),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "assistant_early_exit": (),
    "speculation_type": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "diversity_penalty": (0,),
    "num_beam_groups": (1,),
    "constraints": (),
    "force_words_ids": (),
}
"""transformers' fields without an implementation here, and the values that turn them off."""


def checked(name: str, value: object) -> object:
    """The value as it is kept. Raises InvalidRequest naming field, value and allowed range."""
    return CHECKS[name](name, value)


def is_off(name: str, value: object) -> bool:
    """Whether a field that is not implemented here has a value that asks for nothing."""
    return name in IGNORED or value is None or value in UNSUPPORTED.get(name, ())


_WHY: Mapping[str, str] = {
    "past_key_values": "not needed here: what a prompt begins with is remembered between calls",
    "inputs_embeds": "not implemented: prompts are token ids",
}


def refuse_unsupported(names: Iterable[str]) -> NoReturn:
    """Raise InvalidRequest naming every field that is asked for in vain."""
    names = sorted(names)
    if len(names) == 1 and names[0] in _WHY:
        raise InvalidRequest.of(names[0], _WHY[names[0]])
    raise InvalidRequest.of(
        ", ".join(names),
        f"not {'an argument' if len(names) == 1 else 'arguments'} that generation has here",
    )
