"""`Phi3Config` as transformers' users make it and ask it: by keyword, with its defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from phi3svc.api.config_settings import SETTINGS, read_setting
from phi3svc.config import model
from phi3svc.config.checkpoint import EMBEDDED_MODELS, resolve_source
from phi3svc.config.json_file import read_json_object
from phi3svc.errors import ConfigError

_MINI: dict[str, object] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}

_ALWAYS: Mapping[str, object] = {
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "is_encoder_decoder": False,
    "name_or_path": "",
    "output_attentions": False,
    "output_hidden_states": False,
    "resid_pdrop": 0.0,
    "return_dict": True,
}
"""What scripts ask of any config, and a config.json need not say."""

_OF_A_CALL = ("output_attentions", "output_hidden_states", "return_dict")

# Fields in which one checkpoint's configs may differ.
_FREE = (
    *("use_cache", "problem_type", "labels", "dtype", "generation", "initializer_range"),
    *("pad_token_id", "bos_token_id", "eos_token_ids"),
)

_NOT_IN_FILES = (
    *("architecture", "task", "rope", "eos_token_ids", "labels", "generation", "small"),
    "quantization",
)


class Phi3Config(model.Phi3Config):
    """A model's shape and settings. Without arguments: those of Phi-3-mini-4k.

    What else config.json says is an attribute too, as it stands there (`rope_parameters`,
    `architectures`, `transformers_version`); dtype is the name of one, torch_dtype the type itself.
    use_cache, problem_type, the special tokens' ids and the labels may be assigned, as may names
    that mean nothing here. A shape may not: it is the weights'; make another config of `to_dict()`.
    """

    _said: dict[str, object]

    def __init__(self, **fields: Any) -> None:
        """fields: keys of config.json in either dialect; what is not known there changes nothing.

        Raises ConfigError naming field, value and allowed range.
        """
        said = _MINI | fields
        self._take(model.Phi3Config.from_dict(said), said)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool | None = None,
        **fields: Any,
    ) -> Self:
        """The config of a checkpoint: local folder, embedded model or hub id.

        From the hub the whole checkpoint comes, as it does for a model. trust_remote_code changes
        nothing: no code is taken from checkpoints. fields: go before those of config.json.
        """
        path = resolve_source(with_revision(source, revision)).path
        config = model.Phi3Config.from_dir(path)
        said = read_json_object(path / "config.json") | {"name_or_path": str(path)}
        if fields:
            if "num_labels" in fields and "id2label" not in fields:
                said.pop("id2label", None)
            stop_ids = [*config.eos_token_ids]  # also of generation_config.json
            said = {"dtype": config.dtype} | said | {"eos_token_id": stop_ids} | fields
            config = model.Phi3Config.from_dict(said)
        return cls.of(config, said)

    @classmethod
    def of(cls, config: model.Phi3Config, said: Mapping[str, object] | None = None) -> Self:
        """said: the config.json that `config` was read from."""
        if said is None:
            said = config._said if isinstance(config, Phi3Config) else {}
        made = cls.__new__(cls)
        made._take(config, said)
        return made

    def updated(self, **changes: Any) -> Self:
        """The same with other values; `dataclasses.replace` is for the base class alone."""
        return self.of(model.Phi3Config(**(self._fields() | changes)), self._said)

    def with_settings_of(self, other: object) -> Self:
        """These, and what `other` has of all that can be assigned.

        Raises ConfigError, naming the field, if it is no config of the same shape.
        """
        if not isinstance(other, model.Phi3Config):
            text = f"a {type(other).__name__}, must be a phi3svc Phi3Config"
            raise ConfigError(f"config: {text}")
        of_other = {f.name: getattr(other, f.name) for f in dataclasses.fields(other)}
        for name, value in self._fields().items():
            if name not in _FREE and of_other[name] != value:
                raise ConfigError(
                    f"config: {name} is {of_other[name]!r}; the checkpoint has {value!r}"
                )
        if len(other.labels) != len(self.labels):
            text = f"{len(other.labels)} labels; the checkpoint has {len(self.labels)}"
            raise ConfigError(f"config: {text}")
        return self.updated(**{name: of_other[name] for name in _FREE})

    def update(self, settings: Mapping[str, Any]) -> None:
        """Assign them all."""
        for name, value in settings.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """As config.json has it: what it said, and what the fields are now."""
        values = dict(self._said) | self._fields()
        for name in _NOT_IN_FILES:
            values.pop(name, None)
        values |= {"architectures": [self.architecture], "eos_token_id": self.eos_token_id}
        if self.labels:
            values |= {"id2label": self.id2label, "label2id": self.label2id}
        return values

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """The config itself, as for all models that read nothing but text."""
        return self

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.labels))

    @property
    def label2id(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    @property
    def eos_token_id(self) -> int | list[int] | None:
        """Stop ids, a list if there are several."""
        return (
            self.eos_token_ids[0] if len(self.eos_token_ids) == 1 else [*self.eos_token_ids] or None
        )

    @property
    def architectures(self) -> list[str]:
        return [self.architecture]

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @property
    def rope_theta(self) -> float:
        return self.rope.theta

    def __setattr__(self, name: str, value: object) -> None:
        """Raises ConfigError for what cannot change, or a value out of range."""
        if name in SETTINGS:
            field, checked = read_setting(self, name, value)
            object.__setattr__(self, field, checked)
        elif hasattr(type(self), name) or name in self._fields():
            raise ConfigError(f"Phi3Config: {name}: cannot change; make a new config of to_dict()")
        elif name in _OF_A_CALL and value != _ALWAYS[name]:
            raise ConfigError(f"Phi3Config: {name}={value!r}: must be an argument of each call")
        else:
            self._said[name] = value

    if not TYPE_CHECKING:  # or nothing would be a name that it does not have

        def __getattr__(self, name: str) -> Any:
            said = self.__dict__.get("_said", {})
            if name in said:
                return said[name]
            if name in ("rope_parameters", "rope_scaling"):  # what either dialect calls the other
                return said.get("rope_scaling", said.get("rope_parameters"))
            if name in _ALWAYS:
                return _ALWAYS[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _take(self, config: model.Phi3Config, said: Mapping[str, object]) -> None:
        for field in dataclasses.fields(config):
            object.__setattr__(self, field.name, getattr(config, field.name))
        object.__setattr__(self, "_said", dict(said))


def with_revision(source: str | Path, revision: str | None) -> str:
    """A hub id with its revision; a folder has none, and transformers ignores it there."""
    source = str(source)
    if revision is None or "@" in source or is_local(source):
        return source
    return f"{source}@{revision}"


def is_local(source: str | Path) -> bool:
    """Whether a source is a folder or embedded model, for which nothing is fetched."""
    return str(source) in EMBEDDED_MODELS or Path(source).expanduser().is_dir()
