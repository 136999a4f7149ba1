"""What of a config may still be said once a network was made of it, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from phi3svc.config.common_fields import (
    MAX_LABELS,
    read_eos_token_ids,
    read_labels,
    read_problem_type,
    read_token_id,
)
from phi3svc.config.json_file import Fields
from phi3svc.config.model import Phi3Config

Reader = Callable[[Fields, Phi3Config], tuple[str, object]]
"""Of one given field, and the config: the name and value of what is kept."""


def _use_cache(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    return "use_cache", fields.flag("use_cache", True)


def _problem_type(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    return "problem_type", read_problem_type(fields)


def _token_id(name: str) -> Reader:
    def read(fields: Fields, config: Phi3Config) -> tuple[str, object]:
        return name, read_token_id(fields, name, None, config.vocab_size)

    return read


def _eos_token_id(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    none = Fields({}, fields.where)
    return "eos_token_ids", read_eos_token_ids(fields, none, config.vocab_size, 0)


def _id2label(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    labels = read_labels(fields, config.task)
    if len(labels) != len(config.labels):
        fields.fail("id2label", f"as many labels as there are, {len(config.labels)}")
    return "labels", labels


def _label2id(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    ids = fields.object("label2id") or {}
    id2label = {str(label_id): label for label, label_id in ids.items()}
    return _id2label(Fields({"id2label": id2label}, fields.where), config)


def _num_labels(fields: Fields, config: Phi3Config) -> tuple[str, object]:
    if fields.integer("num_labels", 0, MAX_LABELS) != len(config.labels):
        fields.fail("num_labels", f"as many labels as there are, {len(config.labels)}")
    return "labels", config.labels


SETTINGS: Mapping[str, Reader] = {
    "use_cache": _use_cache,
    "problem_type": _problem_type,
    "pad_token_id": _token_id("pad_token_id"),
    "bos_token_id": _token_id("bos_token_id"),
    "eos_token_id": _eos_token_id,
    "id2label": _id2label,
    "label2id": _label2id,
    "num_labels": _num_labels,
}


def read_setting(config: Phi3Config, name: str, value: Any) -> tuple[str, object]:
    """Name and value of the field that setting `name` to `value` changes. Raises ConfigError."""
    return SETTINGS[name](Fields({name: value}, type(config).__name__), config)
