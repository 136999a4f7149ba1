"""`generate`: transformers' way to ask for it, this package's engine to do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from phi3svc.api.answer_logits import answer_logits
from phi3svc.api.beam_search import BeamResult, beam_search
from phi3svc.api.engine_runs import Answers, EngineRuns
from phi3svc.api.generation_call import GenerationCall, settle
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.generation_fields import refuse_unsupported
from phi3svc.api.generation_inputs import read_prompts
from phi3svc.api.generation_outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    by_step,
    joined,
    padded,
)
from phi3svc.api.logits_processors import History, process, processors_for
from phi3svc.api.memory import require_bytes
from phi3svc.api.outputs import moved
from phi3svc.api.stopping import StoppingCriterion
from phi3svc.api.turns import turn
from phi3svc.errors import InvalidRequest
from phi3svc.model.network import Network


class Streamer(Protocol):
    """What transformers' streamers are: told of the prompt [1, S], then of each token [1]."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class GenerationMixin:
    """`generate` for a model with a network and a `generation_config`."""

    network: Network
    generation_config: GenerationConfig

    def generate(
        self,
        inputs: Tensor | Mapping[str, Any] | None = None,
        generation_config: object | None = None,
        logits_processor: Sequence[object] | None = None,
        stopping_criteria: StoppingCriterion | Iterable[StoppingCriterion] | None = None,
        prefix_allowed_tokens_fn: object | None = None,
        synced_gpus: bool | None = None,
        assistant_model: object | None = None,
        streamer: Streamer | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
        """Continue prompts, as transformers' `generate` does; arguments as there.

        inputs or input_ids: int64 [B, S], or a tokenizer's answer. kwargs: fields of
        GenerationConfig, which go before those of `generation_config` (ours, transformers', or a
        dict), which go before those of the checkpoint. Returns int64 [B · num_return_sequences,
        S + longest answer], or with return_dict_in_generate an object that also has it.

        A row is generated as if it were alone, to the bit: what `attention_mask` takes away is not
        there, and LongRoPE's factors follow its own length. With transformers they follow the
        longest row, padding included, and wrong keys are left over when a padded row passes the
        original length. Rows are answered like the server's requests of the same seed; with
        `seed`, all rows have that one (num_return_sequences still differ), and without, each draws
        its own from torch's generator, so that torch.manual_seed makes a script repeat itself.
        A row also ends where the model's context does. max_time may end a row that waits for others
        before it has a token.

        streamer: for one row, without beams. stopping_criteria: called after each token for the
        one row that has got it, with input_ids [1, L] and no scores; true ends this row.
        stop_strings need `tokenizer`. Calls from several threads take turns. Raises InvalidRequest
        for whatever cannot be done, by name.
        """
        refused = {
            "logits_processor": logits_processor or None,  # an empty list asks for nothing
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "synced_gpus": synced_gpus or None,
            "assistant_model": assistant_model,
        }
        if any(value is not None for value in refused.values()):
            refuse_unsupported(name for name, value in refused.items() if value is not None)
        config = self.network.config
        settings = settle(self.generation_config, generation_config, kwargs)
        prompts = read_prompts(inputs, input_ids, attention_mask, settings, config.vocab_size)
        call = GenerationCall.of(config, settings, prompts, stopping_criteria, tokenizer)
        if streamer is not None and settings.num_beams > 1:
            raise InvalidRequest.of("streamer", "given with num_beams > 1, where none can be")
        # Two threads may come here for the first time together.
        runs: EngineRuns = self.__dict__.setdefault("_runs", EngineRuns(self.network))
        with turn(self.network):
            if settings.num_beams > 1:
                return moved(self._search(call), self.network.device)
            return moved(self._sample(call, streamer, runs), self.network.device)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The scores that each generated token had, from what `generate` returned.

        sequences, scores, beam_indices: of the output, the last of beam search alone.
        normalize_logits: take the log softmax of the scores first. Returns float32 [R, steps], 0
        behind the end of a beam's answer.
        """
        by_row = torch.stack(tuple(scores), dim=1)  # [rows, steps, V]
        if normalize_logits:
            by_row = by_row.log_softmax(-1)
        if beam_indices is None:
            beam_indices = torch.arange(len(by_row), device=by_row.device)[:, None].expand(
                -1, by_row.shape[1]
            )
        num_steps = int((beam_indices >= 0).sum(-1).max())
        beam_indices = beam_indices[:, :num_steps]
        token_ids = sequences[:, sequences.shape[1] - num_steps :]
        token_ids = token_ids.clamp(max=by_row.shape[2] - 1)  # padding need not be a token
        steps = torch.arange(num_steps, device=by_row.device).expand_as(beam_indices)
        found = by_row[beam_indices.clamp(min=0), steps, token_ids]
        return found.masked_fill(beam_indices < 0, 0.0)

    def _sample(
        self, call: GenerationCall, streamer: Streamer | None, runs: EngineRuns
    ) -> Tensor | GenerateDecoderOnlyOutput:
        if streamer is not None and call.num_rows > 1:
            raise InvalidRequest.of("streamer", f"given with {call.num_rows} rows, not with one")
        self._check_memory(call)
        if streamer is not None:
            streamer.put(call.prompts.columns)

        def on_token(row: int, index: int, answer: Sequence[int]) -> bool:
            if streamer is not None:
                streamer.put(torch.tensor([answer[-1]]))
            return call.stopping.ends(row, answer)

        is_watched = streamer is not None or call.stopping.looks_at_tokens
        by_prompt = runs.run(
            call.requests(), on_token if is_watched else None, call.stopping.is_time_up
        )
        if streamer is not None:
            streamer.end()
        answers = [answer for of_prompt in by_prompt for answer in of_prompt]
        sequences = joined(call.prompts.columns, answers, call.padding_id)
        if not call.settings.return_dict_in_generate:
            return sequences
        output = GenerateDecoderOnlyOutput(sequences)
        if call.wants_scores or call.wants_logits:
            logits = [
                rows
                for prompt_ids, of_prompt in zip(call.prompts.rows, by_prompt, strict=True)
                for rows in answer_logits(self.network, prompt_ids, of_prompt)
            ]
            if call.wants_logits:
                output.logits = by_step([rows[:, None] for rows in logits])
            if call.wants_scores:
                scores = _processed(call, by_prompt, logits)
                output.scores = by_step([rows[:, None] for rows in scores])
        return output

    def _search(self, call: GenerationCall) -> Tensor | GenerateBeamDecoderOnlyOutput:
        settings, prompts, stopping = call.settings, call.prompts, call.stopping

        def should_stop(row: int, sequences: list[list[int]]) -> list[bool]:
            is_time_up, prompt_len = stopping.is_time_up(), len(prompts.rows[row])
            return [is_time_up or stopping.ends(row, ids[prompt_len:]) for ids in sequences]

        is_watched = stopping.looks_at_tokens or settings.max_time is not None
        results = beam_search(
            self.network,
            prompts.rows,
            settings,
            max_new_tokens=[call.max_new_tokens] * len(prompts.rows),
            eos_token_ids=call.eos_token_ids,
            seeds=call.seeds,
            want_scores=call.wants_scores,
            want_logits=call.wants_logits,
            should_stop=should_stop if is_watched else None,
        )
        answers = [answer for result in results for answer in result.sequences]
        sequences = joined(prompts.columns, answers, call.padding_id)
        if not settings.return_dict_in_generate:
            return sequences
        output = GenerateBeamDecoderOnlyOutput(sequences)
        if call.wants_scores:
            output.sequences_scores = torch.tensor([s for result in results for s in result.scores])
            output.scores = by_step([torch.stack(result.step_scores) for result in results])
            output.beam_indices = padded(_beam_rows(results, settings.num_beams), -1)
        if call.wants_logits:
            output.logits = by_step([torch.stack(result.step_logits) for result in results])
        return output

    def _check_memory(self, call: GenerationCall) -> None:
        """That scores and logits would fit, however long the answers get."""
        num_tokens = call.num_rows * call.max_new_tokens
        # Each is there twice for a moment: row by row, and step by step.
        num_bytes = 2 * (call.wants_scores + call.wants_logits) * num_tokens
        num_bytes *= 4 * self.network.config.vocab_size
        require_bytes("max_new_tokens", num_bytes, f"the scores of {num_tokens} tokens")


def _processed(
    call: GenerationCall, by_prompt: Sequence[Answers], logits: Sequence[Tensor]
) -> list[Tensor]:
    """What each token of each answer was chosen from: [tokens, V] each."""
    processors = processors_for(call.settings, call.eos_token_ids)
    histories = [
        [History(prompt_ids, answer[:i]) for i in range(len(answer))]
        for prompt_ids, answers in zip(call.prompts.rows, by_prompt, strict=True)
        for answer in answers
    ]
    return [process(processors, *of_answer) for of_answer in zip(histories, logits, strict=True)]


def _beam_rows(results: Sequence[BeamResult], num_beams: int) -> list[list[int]]:
    """Which row of all beams each token was appended to."""
    return [
        [i * num_beams + beam for beam in beams]
        for i, result in enumerate(results)
        for beams in result.beam_indices
    ]
