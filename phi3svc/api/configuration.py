"""`Phi3Config` as transformers' users make it and ask it: by keyword, with its defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

from phi3svc.config import model
from phi3svc.config.checkpoint import EMBEDDED_MODELS, resolve_source

_MINI: dict[str, object] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


class Phi3Config(model.Phi3Config):
    """A model's shape and settings, frozen. Without arguments: those of Phi-3-mini-4k."""

    def __init__(self, **fields: Any) -> None:
        """fields: keys of config.json in either dialect; what is not known there changes nothing.

        Raises ConfigError naming field, value and allowed range.
        """
        self._take(model.Phi3Config.from_dict(_MINI | fields))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> Self:
        """The config of a checkpoint: local folder, embedded model or hub id.

        From the hub the whole checkpoint comes, as it does for a model. trust_remote_code changes
        nothing: no code is taken from checkpoints.
        """
        return cls.of(
            model.Phi3Config.from_dir(resolve_source(with_revision(source, revision)).path)
        )

    @classmethod
    def of(cls, config: model.Phi3Config) -> Self:
        made = cls.__new__(cls)
        made._take(config)
        return made

    def updated(self, **changes: Any) -> Self:
        """The same with other values; `dataclasses.replace` is for the base class alone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return self.of(model.Phi3Config(**(values | changes)))

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

    def _take(self, config: model.Phi3Config) -> None:
        for field in dataclasses.fields(config):
            object.__setattr__(self, field.name, getattr(config, field.name))


def with_revision(source: str | Path, revision: str | None) -> str:
    """A hub id with its revision; a folder has none, and transformers ignores it there."""
    source = str(source)
    is_local = source in EMBEDDED_MODELS or Path(source).expanduser().is_dir()
    if revision is None or "@" in source or is_local:
        return source
    return f"{source}@{revision}"
