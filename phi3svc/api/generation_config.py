"""How to generate: transformers' GenerationConfig, as far as the engine has its fields."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from phi3svc.api.configuration import with_revision
from phi3svc.api.generation_fields import CHECKS, checked, is_off, refuse_unsupported
from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.json_file import read_json_object
from phi3svc.config.model import Phi3Config
from phi3svc.errors import ConfigError, InvalidRequest


@dataclass(init=False, repr=False)
class GenerationConfig:
    """Settings of `generate`, with transformers' names, meanings and defaults.

    A field that was not given reads as its default, but gives way to one that was given further
    down: the checkpoint's generation_config.json, then a config passed to `generate`, then its
    keyword arguments. None in the constructor, or assigned, is "not given".

    max_new_tokens and min_new_tokens go before max_length and min_length; with none of the maxima
    given, 20 new tokens. max_time: seconds. temperature: 0 only without do_sample. eos_token_id:
    one id or a list. pad_token_id: without one, the first eos id. Not in transformers:
    presence_penalty, frequency_penalty, logit_bias and seed, as in
    `phi3svc.engine.request.SamplingParams`; a row's answer follows from its seed alone.

    A value out of range, or a field of transformers' that has no implementation here and is not
    switched off, raises InvalidRequest.
    """

    max_length: int = 20
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    early_stopping: bool | Literal["never"] = False
    max_time: float | None = None
    stop_strings: str | list[str] | None = None
    do_sample: bool = False
    num_beams: int = 1
    use_cache: bool = True
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    num_return_sequences: int = 1
    output_scores: bool = False
    output_logits: bool = False
    return_dict_in_generate: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    seed: int | None = None

    def __init__(self, **values: Any) -> None:
        refused = [n for n, v in values.items() if n not in CHECKS and not is_off(n, v)]
        if refused:
            refuse_unsupported(refused)
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        # Defaults are the class's; an instance has what was given, and no more.
        if name in CHECKS:
            if value is None:
                self.__dict__.pop(name, None)
            else:
                self.__dict__[name] = checked(name, value)
        elif not is_off(name, value):
            refuse_unsupported([name])

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({given})"

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, **values: Any
    ) -> GenerationConfig:
        """That of a checkpoint: local folder, embedded model or hub id, with `values` on top.

        Raises ConfigError for the checkpoint and InvalidRequest for the values.
        """
        made = cls.from_dir(resolve_source(with_revision(source, revision)).path)
        made.update(**values)
        return made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **others: Any) -> GenerationConfig:
        """What `to_dict` gave, here or in transformers, with `others` on top."""
        return cls(**{**values, **others})

    @classmethod
    def from_dir(cls, path: Path, config: Phi3Config | None = None) -> GenerationConfig:
        """What the checkpoint in folder `path` says; `config` spares reading config.json again.

        Stop ids are those of generation_config.json, in its order, and of config.json. A field that
        has no implementation here is left out with a warning. Raises ConfigError in one line.
        """
        config = config or Phi3Config.from_dir(path)
        file = path / "generation_config.json"
        if not file.exists():
            return cls.from_model_config(config)
        values = read_json_object(file)
        unsupported = sorted(n for n, v in values.items() if n not in CHECKS and not is_off(n, v))
        if unsupported:
            text = f"{file}: {', '.join(unsupported)}: not implemented, and left out"
            warnings.warn(text, UserWarning, stacklevel=2)
        values = {name: value for name, value in values.items() if name in CHECKS}
        if values.get("temperature") == 0:  # what some writers call greedy
            values["do_sample"] = False
        try:
            result = cls(**values)
        except InvalidRequest as error:
            raise ConfigError(f"{file}: {error}") from None
        listed = [token_id for token_id in result.eos_token_ids if token_id in config.eos_token_ids]
        result.eos_token_id = _one_or_list([*listed, *config.eos_token_ids])
        return result

    @classmethod
    def from_model_config(cls, config: Phi3Config) -> GenerationConfig:
        """What a model without a generation_config.json has: its config's special tokens."""
        return cls(
            bos_token_id=config.bos_token_id,
            eos_token_id=_one_or_list(config.eos_token_ids),
            pad_token_id=config.pad_token_id,
        )

    @classmethod
    def of(cls, value: object) -> GenerationConfig:
        """`value` itself, or what transformers' GenerationConfig or a mapping holds."""
        if isinstance(value, cls):
            return value
        to_dict = getattr(value, "to_diff_dict", None) or getattr(value, "to_dict", None)
        values = to_dict() if callable(to_dict) else value
        if not isinstance(values, Mapping):
            raise InvalidRequest.of(
                "generation_config", f"a {type(value).__name__}, not a GenerationConfig"
            )
        return cls(**values)

    def over(self, base: GenerationConfig) -> GenerationConfig:
        """These settings, and those of `base` where none were given."""
        return type(self)(**(base.to_dict() | self.to_dict()))

    def updated(self, **values: Any) -> GenerationConfig:
        """With `generate`'s keyword arguments on top. There, None is "none of it", as it is in
        transformers: no top_k, no stop id, no time limit; for a length it is "not given"."""
        result = type(self)(**(self.to_dict() | values))
        for name, value in values.items():
            if value is None and name in CHECKS:
                if name in ("max_length", "min_length"):
                    setattr(result, name, self.to_dict().get(name))
                elif name == "top_k":
                    result.top_k = 0
        return result

    def update(self, **values: Any) -> None:
        """Assign them all, or none where InvalidRequest is raised for one."""
        type(self)(**values)
        for name, value in values.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields that were given."""
        return dict(self.__dict__)

    def is_given(self, name: str) -> bool:
        """Whether a field was given, rather than having its default."""
        return name in self.__dict__

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The stop ids, in the order given, each once."""
        value = self.eos_token_id
        ids = [] if value is None else [value] if isinstance(value, int) else value
        return tuple(dict.fromkeys(ids))

    @property
    def padding_id(self) -> int | None:
        """What fills the columns behind an answer: pad_token_id, or else the first eos id."""
        if self.pad_token_id is None and self.eos_token_ids:
            return self.eos_token_ids[0]
        return self.pad_token_id


def _one_or_list(token_ids: list[int] | tuple[int, ...]) -> int | list[int] | None:
    """As files write it. Each id once."""
    ids = list(dict.fromkeys(token_ids))
    return ids[0] if len(ids) == 1 else ids or None


assert {field.name for field in fields(GenerationConfig)} == set(CHECKS)
