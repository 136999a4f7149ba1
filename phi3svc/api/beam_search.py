"""Beam search over prompts, each by itself: what transformers' `generate(num_beams=...)` finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from phi3svc.api.beam_cache import BeamCache, max_pages
from phi3svc.api.beam_checks import check_beam_arguments, check_beam_memory
from phi3svc.api.beam_decoder import BeamDecoder, Beams
from phi3svc.api.beam_hypotheses import BeamHypotheses
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.logits_processors import History, LogitsProcessor, process, processors_for
from phi3svc.errors import EngineFailed
from phi3svc.model.kv_cache import page_dtype
from phi3svc.model.network import Network

_MAX_DRAWN_SEED = (1 << 63) - 1

ShouldStop = Callable[[int, list[list[int]]], Sequence[bool]]
"""Of a prompt's index and some sequences, each prompt and answer with its newest token: which of
them end there. Asked once a step for every prompt, of all continuations that are looked at."""


@dataclass
class BeamResult:
    """What a prompt's beams came to; R = num_return_sequences, W = num_beams.

    sequences: R answers, best first, without the prompt and with the stop token. scores: of each,
    the sum of its tokens' scores over length ** length_penalty. beam_indices: for each token of
    each answer, the beam (0 .. W - 1) that it was appended to. step_scores, step_logits: per step,
    where asked for, float32 [W, V] of the beams' next tokens: log softmax after the processors, and
    raw. A prompt has as many steps as it takes alone; where none of W finished answers was to be
    had, the last of `sequences` are empty, with a score of -1e9.
    """

    sequences: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    beam_indices: list[list[int]] = field(default_factory=list)
    step_scores: list[Tensor] = field(default_factory=list)
    step_logits: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def beam_search(
    network: Network,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    *,
    max_new_tokens: Sequence[int],
    eos_token_ids: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    want_scores: bool = False,
    want_logits: bool = False,
    should_stop: ShouldStop | None = None,
    kv_dtype: str = "auto",
) -> list[BeamResult]:
    """One result per prompt, which is to the bit what the prompt gets alone.

    prompts: token ids without padding. settings: num_beams, num_return_sequences, length_penalty,
    early_stopping, do_sample, and all that `processors_for` reads. Its maximal lengths, stop ids,
    seed, time limit and stop strings do not count; what comes of them are arguments here.
    max_new_tokens, seeds: one per prompt; seeds count with do_sample, and if None are drawn from
    torch's own generator. eos_token_ids: those beyond the vocabulary are ignored. An answer also
    ends where the model's context does. kv_dtype: as in `EngineConfig`.

    Raises InvalidRequest for what can't be done, also for beams that have no room in the free
    memory, before anything is allocated; EngineFailed if the model computes NaN.
    """
    eos_token_ids = [token_id for token_id in eos_token_ids if token_id < network.config.vocab_size]
    check_beam_arguments(network, prompts, settings, eos_token_ids)
    context_len = network.config.context_len
    limits = [
        min(limit, context_len - len(prompt))
        for prompt, limit in zip(prompts, max_new_tokens, strict=True)
    ]
    num_pages = sum(
        # The last token of an answer is never computed.
        max_pages(len(prompt), len(prompt) + limit - 1, settings.num_beams)
        for prompt, limit in zip(prompts, limits, strict=True)
    )
    pages_dtype = page_dtype(kv_dtype, network.dtype)
    check_beam_memory(network, settings, num_pages, pages_dtype, limits, want_scores + want_logits)
    cache = BeamCache(network.config, num_pages, pages_dtype, network.device)
    decoder = BeamDecoder(network, cache)
    processors = processors_for(settings, eos_token_ids)
    generators = _generators(settings, len(prompts), seeds)
    rows = [
        _Row(
            index,
            decoder.begin(prompt),
            BeamHypotheses(settings, eos_token_ids, limit, generator),
            BeamResult(),
        )
        for index, (prompt, limit, generator) in enumerate(
            zip(prompts, limits, generators, strict=True)
        )
    ]
    running = rows
    while running:
        all_logits = decoder.logits([row.beams for row in running])
        for row, logits in zip(running, all_logits, strict=True):
            if want_logits:
                row.result.step_logits.append(logits.expand(settings.num_beams, -1).clone())
            scores = _token_scores(row.beams, logits, processors)
            if want_scores:
                row.result.step_scores.append(scores.expand(settings.num_beams, -1).clone())
            parents = row.hypotheses.advance(scores, row.stopper(should_stop))
            answers = [hypothesis.answer_ids for hypothesis in row.hypotheses.running]
            decoder.go_on(row.beams, parents, answers)
            if row.hypotheses.is_done:
                decoder.free(row.beams)
        running = [row for row in running if not row.hypotheses.is_done]
    for row in rows:
        for hypothesis, score in row.hypotheses.best(settings.num_return_sequences):
            row.result.sequences.append(hypothesis.answer_ids)
            row.result.scores.append(score)
            row.result.beam_indices.append(hypothesis.parents)
    return [row.result for row in rows]


@dataclass(frozen=True)
class _Row:
    """One prompt's search."""

    index: int
    beams: Beams
    hypotheses: BeamHypotheses
    result: BeamResult

    def stopper(
        self, should_stop: ShouldStop | None
    ) -> Callable[[list[list[int]]], Sequence[bool]] | None:
        """`should_stop` for this prompt's answers."""
        if should_stop is None:
            return None
        prompt_ids = self.beams.prompt_ids
        return lambda answers: should_stop(
            self.index, [[*prompt_ids, *answer] for answer in answers]
        )


def _token_scores(beams: Beams, logits: Tensor, processors: Sequence[LogitsProcessor]) -> Tensor:
    """Processed log probabilities, float32 like logits. In beam search these come first."""
    if bool(logits.isnan().any()):
        raise EngineFailed("the model computed NaN")
    histories = [History(beams.prompt_ids, answer) for answer in beams.answers]
    return process(processors, histories, logits.log_softmax(-1))


def _generators(
    settings: GenerationConfig, num_prompts: int, seeds: Sequence[int] | None
) -> list[torch.Generator | None]:
    """Where each prompt's draws come from."""
    if not settings.do_sample:
        return [None] * num_prompts
    if seeds is None:
        seeds = torch.randint(_MAX_DRAWN_SEED, (num_prompts,)).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]
