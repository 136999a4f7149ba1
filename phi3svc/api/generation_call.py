"""One call of `generate`, with everything settled that it left open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.generation_inputs import Prompts
from phi3svc.api.seeds import draw_seeds
from phi3svc.api.stopping import Stopping, StoppingCriterion
from phi3svc.config.model import Phi3Config
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.errors import InvalidRequest


@dataclass(frozen=True)
class GenerationCall:
    """settings: with min_length made part of min_new_tokens; max_new_tokens: of each answer;
    eos_token_ids: of the vocabulary; padding_id: what fills up answers; seeds: one per prompt.
    """

    settings: GenerationConfig
    prompts: Prompts
    stopping: Stopping
    max_new_tokens: int
    eos_token_ids: list[int]
    padding_id: int
    seeds: list[int]

    @classmethod
    def of(
        cls,
        config: Phi3Config,
        settings: GenerationConfig,
        prompts: Prompts,
        criteria: StoppingCriterion | Iterable[StoppingCriterion] | None,
        tokenizer: Any,
    ) -> GenerationCall:
        """As `GenerationMixin.generate` says. Raises InvalidRequest."""
        max_new_tokens = _max_new_tokens(settings, prompts.width)
        min_new_tokens = settings.min_new_tokens
        if min_new_tokens is None:
            min_new_tokens = max(0, settings.min_length - prompts.width)
        padding_id = settings.padding_id if settings.padding_id is not None else config.pad_token_id
        return cls(
            # The longest answer goes before the shortest one, as in transformers.
            settings.updated(min_new_tokens=min(min_new_tokens, max_new_tokens)),
            prompts,
            Stopping(prompts, settings, criteria, tokenizer),
            max_new_tokens,
            [token_id for token_id in settings.eos_token_ids if token_id < config.vocab_size],
            padding_id if padding_id is not None else 0,
            _seeds(settings, len(prompts.rows)),
        )

    @property
    def num_rows(self) -> int:
        """Of what comes back."""
        return len(self.prompts.rows) * self.settings.num_return_sequences

    @property
    def wants_scores(self) -> bool:
        return self.settings.return_dict_in_generate and self.settings.output_scores

    @property
    def wants_logits(self) -> bool:
        return self.settings.return_dict_in_generate and self.settings.output_logits

    def requests(self) -> list[GenerateRequest]:
        """What the engine is asked, a request per prompt."""
        seeded = zip(self.prompts.rows, self.seeds, strict=True)
        return [
            GenerateRequest(
                request_id=str(row),
                model="",
                prompt_ids=prompt_ids,
                sampling=_sampling(self.settings, seed),
                max_new_tokens=self.max_new_tokens,
                stop_token_ids=self.eos_token_ids,
                min_new_tokens=self.settings.min_new_tokens or 0,
                n=self.settings.num_return_sequences,
            )
            for row, (prompt_ids, seed) in enumerate(seeded)
        ]


def settle(
    of_model: GenerationConfig, given: object | None, kwargs: Mapping[str, Any]
) -> GenerationConfig:
    """Keyword arguments over a config that was given over the model's. Raises InvalidRequest."""
    settings = of_model if given is None else GenerationConfig.of(given).over(of_model)
    settings = settings.updated(**kwargs)
    if settings.do_sample and settings.temperature == 0:
        raise InvalidRequest.of("temperature", "0 with do_sample; without it, greedy is meant")
    num, num_beams = settings.num_return_sequences, settings.num_beams
    if num > num_beams and not (settings.do_sample and num_beams == 1):
        text = f"{num}, not at most num_beams={num_beams}, unless do_sample draws them"
        raise InvalidRequest.of("num_return_sequences", text)
    return settings


def _max_new_tokens(settings: GenerationConfig, width: int) -> int:
    if settings.max_new_tokens is not None:
        return settings.max_new_tokens
    if not settings.is_given("max_length"):
        return settings.max_length
    if settings.max_length <= width:
        text = f"{settings.max_length}, not above the input's {width} columns"
        raise InvalidRequest.of("max_length", text)
    return settings.max_length - width


def _seeds(settings: GenerationConfig, num_rows: int) -> list[int]:
    if settings.seed is not None or not settings.do_sample:
        return [settings.seed or 0] * num_rows
    return draw_seeds(num_rows)


def _sampling(settings: GenerationConfig, seed: int) -> SamplingParams:
    """Without do_sample, what shapes the distribution does not count, as in transformers."""
    is_sampled = settings.do_sample
    return SamplingParams(
        temperature=settings.temperature if is_sampled else 0.0,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seed,
        min_p=settings.min_p,
        typical_p=settings.typical_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        logit_bias=dict(settings.logit_bias or {}),
    )
