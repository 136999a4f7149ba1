"""Fields of config.json that mean the same for every member of the family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from phi3svc.config.json_file import Fields
from phi3svc.config.model import DTYPES, DType, Task
from phi3svc.errors import ConfigError

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MAX_LABELS = 1 << 16
MAX_LABEL_CHARS = 1024
MAX_EOS_IDS = 64
HEAD_DIM_MULTIPLE, MAX_HEAD_DIM = 16, 256


def read_architecture(fields: Fields, tasks: Mapping[str, Task]) -> str:
    """The class that the checkpoint was saved from; without one, the first of `tasks`."""
    names = fields.values.get("architectures")
    if names is None:
        return next(iter(tasks))
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str) or name not in tasks:
        fields.fail("architectures", f"a list of one of {', '.join(tasks)}")
    return name


def read_num_kv_heads(fields: Fields, num_heads: int) -> int:
    """As many as query heads where nothing else is said."""
    num_kv_heads = fields.integer("num_key_value_heads", 1, num_heads, num_heads)
    if num_heads % num_kv_heads:
        fields.fail("num_key_value_heads", f"a divisor of num_attention_heads={num_heads}")
    return num_kv_heads


def read_head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    """D: hidden_size / num_attention_heads where nothing else is said."""
    head_dim = fields.optional_integer("head_dim", 1, MAX_HEAD_DIM)
    if head_dim is None:
        if hidden_size % num_heads:
            fields.fail("num_attention_heads", f"a divisor of hidden_size={hidden_size}")
        head_dim = hidden_size // num_heads
    if head_dim % HEAD_DIM_MULTIPLE or head_dim > MAX_HEAD_DIM:
        raise ConfigError(
            f"{fields.where}: head_dim is {head_dim}; "
            f"expected a multiple of {HEAD_DIM_MULTIPLE} up to {MAX_HEAD_DIM}"
        )
    return head_dim


def read_dtype(fields: Fields) -> DType:
    """What weights are best held in."""
    name = "dtype" if fields.values.get("dtype") is not None else "torch_dtype"
    return DTYPES[fields.choice(name, tuple(DTYPES), "float32")]


def read_token_id(fields: Fields, name: str, default: int | None, vocab_size: int) -> int | None:
    """None where the id lies beyond the vocabulary, as defaults do in a tiny model."""
    token_id = default
    if name in fields.values:
        token_id = fields.optional_integer(name, 0, (1 << 31) - 1)
    return token_id if token_id is not None and token_id < vocab_size else None


def read_eos_token_ids(
    config: Fields, generation: Fields, vocab_size: int, default: int
) -> tuple[int, ...]:
    """The union of both files; ids beyond the vocabulary are left out: no model can emit them."""
    ids: set[int] = set()
    for fields in (config, generation):
        value = fields.values.get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        if len(listed) > MAX_EOS_IDS:
            fields.fail("eos_token_id", f"at most {MAX_EOS_IDS} ids")
        for item in listed:
            token_id = Fields({"eos_token_id": item}, fields.where, fields.prefix).optional_integer(
                "eos_token_id", 0, (1 << 31) - 1
            )
            if token_id is not None and token_id < vocab_size:
                ids.add(token_id)
    if "eos_token_id" not in config.values and default < vocab_size:
        ids.add(default)
    return tuple(sorted(ids))


def read_labels(fields: Fields, task: Task) -> tuple[str, ...]:
    """Labels by id; LABEL_0, LABEL_1, ... where only their number is known."""
    labels = fields.object("id2label")
    if labels is None:
        default = 2 if task.endswith("classification") else 0
        num_labels = fields.integer("num_labels", 1, MAX_LABELS, default)
        return tuple(f"LABEL_{i}" for i in range(num_labels))
    labels = {str(key): label for key, label in labels.items()}  # to_dict() has integer keys
    if not 1 <= len(labels) <= MAX_LABELS or set(labels) != {str(i) for i in range(len(labels))}:
        fields.fail("id2label", f"1 to {MAX_LABELS} labels under the keys 0, 1, 2, ...")
    names = [labels[str(i)] for i in range(len(labels))]
    for i, name in enumerate(names):
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_LABEL_CHARS:
            Fields(labels, fields.where, "id2label.").fail(
                str(i), f"a string of 1 to {MAX_LABEL_CHARS} characters"
            )
    return tuple(cast(list[str], names))


def read_problem_type(fields: Fields) -> str | None:
    """What a sequence classifier's scores are, where the checkpoint says so."""
    if fields.values.get("problem_type") is None:
        return None
    return fields.choice("problem_type", PROBLEM_TYPES)
