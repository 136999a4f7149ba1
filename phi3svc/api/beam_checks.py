"""What is looked at before a beam search allocates anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from phi3svc.api.beam_hypotheses import num_candidates
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.engine.memory import free_bytes
from phi3svc.errors import FieldViolation, InvalidRequest, PromptTooLong
from phi3svc.model.kv_cache import page_bytes
from phi3svc.model.network import Network

MAX_DRAW_CATEGORIES = 1 << 24
"""Beams times vocabulary that torch.multinomial takes."""


def check_beam_arguments(
    network: Network,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    eos_token_ids: Sequence[int],
) -> None:
    """Raise InvalidRequest, or PromptTooLong, naming all that no search could be made of."""
    vocab_size, num_beams = network.config.vocab_size, settings.num_beams
    violations = []
    if settings.num_return_sequences > num_beams:
        text = f"{settings.num_return_sequences}, not in 1..{num_beams} (num_beams)"
        violations.append(FieldViolation("num_return_sequences", text))
    if num_candidates(num_beams, len(eos_token_ids)) > num_beams * vocab_size:
        text = f"{len(eos_token_ids)} ids, not at most {vocab_size - 1} in beam search"
        violations.append(FieldViolation("eos_token_id", text))
    if settings.do_sample and num_beams * vocab_size > MAX_DRAW_CATEGORIES:
        text = f"{num_beams}, not at most {MAX_DRAW_CATEGORIES // vocab_size} with do_sample"
        violations.append(FieldViolation("num_beams", text))
    violations += [
        FieldViolation(f"logit_bias[{token_id}]", f"token {token_id}, not in 0..{vocab_size - 1}")
        for token_id in settings.logit_bias or ()
        if token_id >= vocab_size
    ]
    for row, prompt in enumerate(prompts):
        if not prompt:
            violations.append(FieldViolation(f"input_ids[{row}]", "no tokens, not at least 1"))
        elif min(prompt) < 0 or max(prompt) >= vocab_size:
            bad = min(prompt) if min(prompt) < 0 else max(prompt)
            text = f"token id {bad}, not in 0..{vocab_size - 1}"
            violations.append(FieldViolation(f"input_ids[{row}]", text))
    if violations:
        raise InvalidRequest(*violations)
    max_prompt_len = network.config.context_len - 1
    for row, prompt in enumerate(prompts):
        if len(prompt) > max_prompt_len:
            text = f"{len(prompt)} tokens, not at most {max_prompt_len}, one below the context"
            raise PromptTooLong(FieldViolation(f"input_ids[{row}]", text))


def check_beam_memory(
    network: Network,
    settings: GenerationConfig,
    num_pages: int,
    pages_dtype: torch.dtype,
    limits: Sequence[int],
    num_kept: int,
) -> None:
    """Raise InvalidRequest if the beams' keys and values, and scores, would not fit.

    num_kept: [W, V] matrices that are kept of every step.
    """
    config = network.config
    for_pages = num_pages * page_bytes(config, pages_dtype)
    num_matrices = len(limits) + num_kept * sum(limits)
    for_scores = num_matrices * settings.num_beams * config.vocab_size * 4
    available = free_bytes(network.device)
    if for_pages + for_scores > available:
        raise InvalidRequest.of(
            "num_beams",
            f"{settings.num_beams} for {len(limits)} prompts need {for_pages} bytes for keys and"
            f" values and {for_scores} for scores, not at most the {available} that are free",
        )
