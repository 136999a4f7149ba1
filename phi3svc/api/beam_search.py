"""Beam search over prompts, each by itself: what transformers' `generate(num_beams=...)` finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phi3svc.api.beam_cache import BeamCache, max_pages
from phi3svc.api.beam_checks import check_beam_arguments, check_beam_memory
from phi3svc.api.beam_decoder import BeamDecoder, Beams
from phi3svc.api.beam_hypotheses import BeamHypotheses, StopsAnswers
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.logits_processors import History, LogitsProcessor, process, processors_for
from phi3svc.api.seeds import draw_seeds
from phi3svc.errors import EngineFailed
from phi3svc.model.kv_cache import page_dtype
from phi3svc.model.network import Network

ShouldStop = Callable[[int, list[list[int]]], Sequence[bool]]
"""Of a prompt's index and some sequences, each prompt and answer with its newest token: which of
them end there. Asked once a step for every prompt, of all continuations that are looked at."""


@dataclass(frozen=True)
class BeamResult:
    """What a prompt's beams came to; R = num_return_sequences, W = num_beams.

    sequences: R answers, best first, without the prompt and with the stop token. scores: of each,
    the sum of its tokens' scores over length ** length_penalty. beam_indices: for each token of
    each answer, the beam (0 .. W - 1) that it was appended to. step_scores, step_logits: per step,
    float32 [W, V] of the beams' next tokens, log softmax after the processors, and raw; empty where
    not asked for. A prompt has as many steps as it takes alone.
    """

    sequences: list[list[int]]
    scores: list[float]
    beam_indices: list[list[int]]
    step_scores: list[Tensor]
    step_logits: list[Tensor]


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
    pages_dtype = page_dtype(kv_dtype, network.dtype, network.device)
    check_beam_memory(network, settings, num_pages, pages_dtype, limits, want_scores + want_logits)
    cache = BeamCache(network.config, num_pages, pages_dtype, network.device)
    decoder = BeamDecoder(network, cache)
    processors = processors_for(settings, eos_token_ids)
    generators = _generators(settings, len(prompts), seeds)
    searches = [
        _Search(
            decoder.begin(prompt),
            BeamHypotheses(settings, eos_token_ids, limit, generator),
            processors,
            None if should_stop is None else _should_stop(should_stop, index, prompt),
            want_scores,
            want_logits,
        )
        for index, (prompt, limit, generator) in enumerate(
            zip(prompts, limits, generators, strict=True)
        )
    ]
    running = searches
    while running:
        all_logits = decoder.logits([search.beams for search in running])
        for search, logits in zip(running, all_logits, strict=True):
            parents = search.advance(logits)
            decoder.go_on(search.beams, parents, search.answers)
            if search.is_done:
                decoder.free(search.beams)
        running = [search for search in running if not search.is_done]
    return [search.result(settings.num_return_sequences) for search in searches]


class _Search:
    """One prompt's search: its beams' tokens, beside what the decoder has computed of them."""

    def __init__(
        self,
        beams: Beams,
        hypotheses: BeamHypotheses,
        processors: Sequence[LogitsProcessor],
        should_stop: StopsAnswers | None,
        want_scores: bool,
        want_logits: bool,
    ) -> None:
        self.beams = beams
        self._hypotheses = hypotheses
        self._processors = processors
        self._should_stop = should_stop
        self._want_scores = want_scores
        self._want_logits = want_logits
        self._step_scores: list[Tensor] = []
        self._step_logits: list[Tensor] = []

    @property
    def is_done(self) -> bool:
        return self._hypotheses.is_done

    @property
    def answers(self) -> list[list[int]]:
        """Those of the beams that go on."""
        return [hypothesis.answer_ids for hypothesis in self._hypotheses.running]

    def advance(self, logits: Tensor) -> list[int]:
        """Go on by a token, given the beams' logits; which beam each new beam comes from."""
        if bool(logits.isnan().any()):
            raise EngineFailed("the model computed NaN")
        histories = [History(self.beams.prompt_ids, answer) for answer in self.beams.answers]
        # In beam search the log softmax comes first: processors act on log probabilities.
        # Row by row it stays in this thread: torch's others take longer to wake than they save.
        logprobs = torch.stack([row.log_softmax(-1) for row in logits])
        scores = process(self._processors, histories, logprobs)
        if self._want_logits:
            self._step_logits.append(self._of_all(logits))
        if self._want_scores:
            self._step_scores.append(self._of_all(scores))
        return self._hypotheses.advance(scores, self._should_stop)

    def result(self, num_sequences: int) -> BeamResult:
        best = self._hypotheses.best(num_sequences)
        return BeamResult(
            sequences=[hypothesis.answer_ids for hypothesis, _ in best],
            scores=[score for _, score in best],
            beam_indices=[hypothesis.parents for hypothesis, _ in best],
            step_scores=self._step_scores,
            step_logits=self._step_logits,
        )

    def _of_all(self, values: Tensor) -> Tensor:
        """[W, V] of what is [1, V] at first, where one beam stands for all; a new tensor."""
        return values.expand(self._hypotheses.num_beams, -1).clone()


def _should_stop(should_stop: ShouldStop, index: int, prompt_ids: Sequence[int]) -> StopsAnswers:
    return lambda answers: should_stop(index, [[*prompt_ids, *answer] for answer in answers])


def _generators(
    settings: GenerationConfig, num_prompts: int, seeds: Sequence[int] | None
) -> list[torch.Generator | None]:
    """Where each prompt's draws come from."""
    if not settings.do_sample:
        return [None] * num_prompts
    if seeds is None:
        seeds = draw_seeds(num_prompts)
    return [torch.Generator().manual_seed(seed) for seed in seeds]
