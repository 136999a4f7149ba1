"""text-generation: what a model makes of texts and conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.api.pipelines.base import Pipeline, pad_rows
from phi3svc.api.pipelines.generation_settings import GenerationSettings, split
from phi3svc.errors import InvalidRequest

# What transformers' pipeline asks for where neither the caller nor the checkpoint says.
DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class _Prompt:
    """token_ids: what the model is given, never empty; num_tokens: how many of them are the
    prompt's own, 0 where an empty one begins with the bos token alone."""

    source: str | Chat
    token_ids: list[int]
    num_tokens: int


class TextGenerationPipeline(Pipeline):
    """Continues texts and conversations.

    A text gives `[{"generated_text": ...}]`, one dict for each of num_return_sequences; a
    conversation, a list of `{"role": ..., "content": ...}`, gives the conversation with the answer
    as its last message, or, if the last message is the assistant's, with that one continued.
    Settings other than these go to `generate`, where by default max_new_tokens is 256, do_sample
    True and temperature 0.7, unless the checkpoint says otherwise:

    return_full_text: False for the new text alone; return_tensors: `generated_token_ids` in place
    of text; skip_special_tokens: True; add_special_tokens, prefix: of texts; truncation: cut
    prompts behind max_length, or the tokenizer's model_max_length; handle_long_generation: "hole"
    cuts prompts in front, so that the answer fits into model_max_length; stop_sequence: a text or
    several that end an answer; continue_final_message; tokenizer_encode_kwargs. padding, and
    clean_up_tokenization_spaces, which transformers too leaves undone for byte-pair tokenizers, are
    taken and ignored.
    """

    task = "text-generation"
    model_class = Phi3ForCausalLM
    model: Phi3ForCausalLM

    _expected: ClassVar[str] = "must be a text, a conversation, a list or an iterator of either"

    # In transformers the inputs of this pipeline alone have another name.
    def __call__(self, text_inputs: Any, **settings: Any) -> Any:  # type: ignore[override]
        return super().__call__(text_inputs, **settings)

    def _merge(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        own = dict(self._given)
        if settings.get("generation_config") is not None:  # takes the place of the pipeline's
            own, _ = split(own)
        return {**own, **settings}

    def _is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str) or _is_chat(inputs)

    def _read_settings(self, given: Mapping[str, Any]) -> GenerationSettings:
        return GenerationSettings.read(given, self.tokenizer)

    def _run(self, inputs: list[Any], settings: GenerationSettings) -> list[Any]:
        options = self._options(settings)
        prompts = [self._prompt(item, settings, options) for item in inputs]
        rows = [prompt.token_ids for prompt in prompts]
        ids, mask = pad_rows(rows, self.tokenizer.pad_token_id, on_left=True)
        output = self.model.generate(ids, attention_mask=mask, **options)
        sequences = output if isinstance(output, Tensor) else output.sequences
        assert sequences is not None
        num_answers = len(sequences) // len(prompts)
        others = {} if isinstance(output, Tensor) else dict(_by_sequence(output.items(), sequences))
        results: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for i, sequence in enumerate(sequences.tolist()):
            prompt = prompts[i // num_answers]
            token_ids = sequence[ids.shape[1] - len(prompt.token_ids) :]
            record = self._record(prompt, token_ids, settings)
            if settings.returns != "tokens":
                record |= {name: rows[i] for name, rows in others.items()}
            results[i // num_answers].append(record)
        return results

    def _options(self, settings: GenerationSettings) -> dict[str, Any]:
        """Arguments of `generate`: the caller's, and the pipeline's defaults where none are set."""
        options = dict(settings.generate)
        given = self._given_to_generate(options)
        added = {name: value for name, value in DEFAULTS.items() if name not in given}
        if "max_length" in given:
            added.pop("max_new_tokens", None)
        if not (given | added).get("do_sample"):
            added.pop("temperature", None)
        if "pad_token_id" not in given and self.tokenizer.pad_token_id is not None:
            added["pad_token_id"] = self.tokenizer.pad_token_id
        options |= added
        if settings.prefix:
            num_tokens = len(self.tokenizer.encode(settings.prefix, settings.add_special_tokens))
            for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
                if total in given | added and new not in given | added:
                    options[total] = given[total] + num_tokens
        if "stop_strings" in given:
            options.setdefault("tokenizer", self.tokenizer)
        return options

    def _given_to_generate(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What `generate` takes from `options` or the checkpoint, rather than its defaults."""
        given = self.model.generation_config.to_dict()
        if options.get("generation_config") is not None:
            given |= GenerationConfig.of(options["generation_config"]).to_dict()
        return given | dict(options)

    def _prompt(
        self, item: Any, settings: GenerationSettings, options: Mapping[str, Any]
    ) -> _Prompt:
        if isinstance(item, str):
            text, add_special = settings.prefix + item, settings.add_special_tokens
        elif _is_chat(item):
            item = _checked_chat(item)
            goes_on = settings.goes_on(item)
            text = self.tokenizer.apply_chat_template(
                item, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
            add_special = False
        else:
            raise InvalidRequest.of("inputs", f"has a {type(item).__name__}, {self._expected}")
        token_ids = self.tokenizer.encode(text, add_special, settings.max_tokens)
        if settings.makes_hole:
            token_ids = self._cut_front(token_ids, options)
        if token_ids:
            return _Prompt(item, token_ids, len(token_ids))
        bos_token_id = self.model.generation_config.bos_token_id
        if bos_token_id is None:
            raise InvalidRequest.of("inputs", "an empty text, and the model has no bos token")
        return _Prompt(item, [bos_token_id], 0)

    def _cut_front(self, token_ids: list[int], options: Mapping[str, Any]) -> list[int]:
        limit = self.tokenizer.model_max_length
        given = self._given_to_generate(options)
        num_new = given.get("max_new_tokens")
        if num_new is None:
            num_new = given["max_length"] - len(token_ids)
        if num_new < 0:
            raise InvalidRequest.of(
                "max_length", f"{given['max_length']} with a prompt of {len(token_ids)} tokens"
            )
        if limit is None or len(token_ids) + num_new <= limit:
            return token_ids
        if num_new >= limit:
            raise InvalidRequest.of(
                "max_new_tokens", f"{num_new}, must be below model_max_length, {limit}, for a hole"
            )
        return token_ids[num_new - limit :]

    def _record(
        self, prompt: _Prompt, token_ids: list[int], settings: GenerationSettings
    ) -> dict[str, Any]:
        if settings.returns == "tokens":
            return {"generated_token_ids": token_ids}
        text = self.tokenizer.decode(
            token_ids[prompt.num_tokens :], skip_special_tokens=settings.skip_special_tokens
        )
        if settings.returns == "new":
            return {"generated_text": text}
        if isinstance(prompt.source, str):
            return {"generated_text": prompt.source + text}
        *before, last = prompt.source
        if settings.goes_on(prompt.source):
            message = {"role": last["role"], "content": last["content"] + text}
            return {"generated_text": [*before, message]}
        return {"generated_text": [*before, last, {"role": "assistant", "content": text}]}


def _is_chat(item: Any) -> bool:
    return (
        isinstance(item, (list, tuple))
        and bool(item)
        and isinstance(item[0], Mapping)
        and {"role", "content"} <= item[0].keys()
    )


def _checked_chat(chat: Chat) -> Chat:
    for i, message in enumerate(chat):
        for name in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(name), str):
                raise InvalidRequest.of(
                    f"inputs[{i}]",
                    f"{message!r:.100}, must be a message with a text as its {name}",
                )
    return chat


def _by_sequence(
    items: Sequence[tuple[str, Any]], sequences: Tensor
) -> Iterator[tuple[str, list[Any]]]:
    """What else `generate` told of each sequence, step by step."""
    for name, value in items:
        if isinstance(value, tuple) and len(value[0]) == len(sequences):
            value = torch.stack(value, dim=1)
        if name != "sequences" and isinstance(value, Tensor) and len(value) == len(sequences):
            yield name, value.tolist()
