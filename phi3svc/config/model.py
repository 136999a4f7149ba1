"""What a checkpoint's config.json and generation_config.json say, checked once.

Two dialects load alike: transformers 4 wrote `rope_scaling`, `rope_theta`,
`partial_rotary_factor` and `torch_dtype` at the top level; transformers 5 writes `rope_parameters`
and `dtype`. Defaults are those of transformers' Phi3Config, except that sizes must be given. Every
size is bounded before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from phi3svc.config.json_file import Fields, read_json_object
from phi3svc.config.rope import RopeConfig, read_rope
from phi3svc.config.tensors import first_float_dtype
from phi3svc.errors import ConfigError

Task = Literal["generation", "sequence-classification", "token-classification", "hidden-states"]
DType = Literal["float32", "bfloat16"]
KVDType = Literal["float32", "bfloat16", "int8"]

TASKS: Mapping[str, Task] = {
    "Phi3ForCausalLM": "generation",
    "Phi3ForSequenceClassification": "sequence-classification",
    "Phi3ForTokenClassification": "token-classification",
    "Phi3Model": "hidden-states",
}
# float16 has more mantissa than bfloat16 and less range, so float32 is the format that holds it.
DTYPES: Mapping[str, DType] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float32",
}
BYTES_PER_ELEMENT: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

MAX_PARAMS = 1 << 40
MAX_POSITIONS = 1 << 24
MAX_LABELS = 1 << 16
MAX_LABEL_CHARS = 1024
MAX_EOS_IDS = 64
HEAD_DIM_MULTIPLE, MAX_HEAD_DIM = 16, 256


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling settings of generation_config.json; transformers' own defaults where it has none.

    repetition_penalty counts even without do_sample, the others only with it.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Phi3Config:
    """One Phi-3 checkpoint's shape and settings.

    max_position_embeddings: the longest sequence, in tokens. original_max_position_embeddings: up
    to here a LongRoPE sequence uses the short factors. sliding_window: a query at q sees keys
    k > q - sliding_window; None sees all. eos_token_ids: union of both files, ascending, without
    ids beyond the vocabulary, which no model can emit. id2label: index is the label's id.
    """

    model_type: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    original_max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    dtype: DType = "float32"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    id2label: tuple[str, ...] = ()
    problem_type: str | None = None
    token_classification_bias: bool = True
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)

    @classmethod
    def from_dir(cls, path: Path) -> Phi3Config:
        """Read config.json and, if there is one, generation_config.json of the folder `path`.

        Without a dtype in config.json it is that of the first floating-point weight, as in
        transformers. Raises ConfigError in one line.
        """
        config = read_json_object(path / "config.json")
        if config.get("dtype") is None and config.get("torch_dtype") is None:
            config["dtype"] = first_float_dtype(path)
        generation_path = path / "generation_config.json"
        generation = read_json_object(generation_path) if generation_path.exists() else None
        return cls.from_dict(config, generation, f"{path}/")

    @classmethod
    def from_dict(
        cls,
        config: Mapping[str, object],
        generation_config: Mapping[str, object] | None = None,
        folder: str = "",
    ) -> Phi3Config:
        """Check and convert the parsed files. Raises ConfigError naming field, value and range.

        folder: put before the files' names in messages.
        """
        fields = Fields(config, f"{folder}config.json")
        fields.choice("model_type", ("phi3",))
        if config.get("quantization_config") is not None:
            fields.fail("quantization_config", "none: quantized checkpoints are not supported")
        fields.choice("hidden_act", ("silu",), "silu")
        architecture = _architecture(fields)
        hidden_size = fields.integer("hidden_size", 1, 1 << 17)
        num_heads = fields.integer("num_attention_heads", 1, 1 << 12)
        num_kv_heads = fields.integer("num_key_value_heads", 1, num_heads, num_heads)
        if num_heads % num_kv_heads:
            fields.fail("num_key_value_heads", f"a divisor of num_attention_heads={num_heads}")
        head_dim = _head_dim(fields, hidden_size, num_heads)
        max_positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
        # transformers lets the top-level value win over one inside rope_parameters, and its class
        # default (4096) too; a checkpoint that it saved always has the top-level one.
        original = fields.integer("original_max_position_embeddings", 2, MAX_POSITIONS, 4096)
        vocab_size = fields.integer("vocab_size", 1, 1 << 22)
        generation = Fields(generation_config or {}, f"{folder}generation_config.json")
        result = cls(
            model_type="phi3",
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", 1, 1 << 19),
            num_hidden_layers=fields.integer("num_hidden_layers", 1, 1 << 10),
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=head_dim,
            vocab_size=vocab_size,
            max_position_embeddings=max_positions,
            original_max_position_embeddings=original,
            rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, 1e-5),
            rope=read_rope(fields, head_dim, max_positions, original),
            sliding_window=fields.optional_integer("sliding_window", 1, (1 << 31) - 1),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            dtype=_dtype(fields),
            bos_token_id=_token_id(fields, "bos_token_id", 1, vocab_size),
            eos_token_ids=_eos_token_ids(fields, generation, vocab_size),
            pad_token_id=_token_id(fields, "pad_token_id", 32000, vocab_size),
            id2label=_id2label(fields, TASKS[architecture]),
            problem_type=_problem_type(fields),
            token_classification_bias=fields.flag("token_classification_bias", True),
            generation=_generation_defaults(generation),
        )
        if result.num_params > MAX_PARAMS:
            raise ConfigError(
                f"{fields.where}: the sizes make {result.num_params:.3g} parameters; "
                f"expected at most {MAX_PARAMS:.3g}"
            )
        return result

    @property
    def task(self) -> Task:
        """What the architecture is for; a network may carry other heads besides."""
        return TASKS[self.architecture]

    @property
    def is_longrope(self) -> bool:
        return self.rope.rope_type == "longrope"

    @property
    def qkv_features(self) -> int:
        """Rows of the fused projection, [q | k | v]."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim

    @property
    def num_params(self) -> int:
        """Weights of the checkpoint, tied ones counted once."""
        hidden = self.hidden_size
        attention = hidden * (self.qkv_features + self.num_attention_heads * self.head_dim)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        embeddings = self.vocab_size * hidden
        head = 0
        if self.task == "generation":
            head = 0 if self.tie_word_embeddings else embeddings
        elif self.task != "hidden-states":
            head = len(self.id2label) * hidden
        return self.num_hidden_layers * layer + embeddings + hidden + head

    def kv_bytes_per_token(self, dtype: KVDType) -> int:
        """Bytes that one token's keys and values take in all layers, int8 with its scales."""
        if dtype == "int8":
            per_head = self.head_dim + 4  # a float32 scale each
        else:
            per_head = self.head_dim * BYTES_PER_ELEMENT[dtype]
        return self.num_hidden_layers * 2 * self.num_key_value_heads * per_head

    def rope_set(self, sequence_len: int) -> Literal[0, 1]:
        """The factor set of a whole sequence of `sequence_len` tokens: 1 is long, 0 short or only.

        transformers takes the long factors once max(position) + 1 exceeds the original length, for
        every token of the forward (`longrope_frequency_update`).
        """
        return 1 if self.is_longrope and sequence_len > self.original_max_position_embeddings else 0

    def pooled_token_idx(self, token_ids: Sequence[int]) -> int:
        """Which token's score stands for the sequence: the last that is not the pad token.

        That is transformers' rule (GenericForSequenceClassification), on a row without padding; in
        Phi-3 the pad token is also an eos token, and a text may well end in it. If nothing but pad
        tokens is there: the first. Without a pad token: the last.
        """
        if self.pad_token_id is None:
            return len(token_ids) - 1
        for idx in range(len(token_ids) - 1, 0, -1):
            if token_ids[idx] != self.pad_token_id:
                return idx
        return 0


def _architecture(fields: Fields) -> str:
    names = fields.values.get("architectures")
    if names is None:
        return "Phi3ForCausalLM"
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str) or name not in TASKS:
        fields.fail("architectures", f"a list of one of {', '.join(TASKS)}")
    return name


def _head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
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


def _dtype(fields: Fields) -> DType:
    name = "dtype" if fields.values.get("dtype") is not None else "torch_dtype"
    return DTYPES[fields.choice(name, tuple(DTYPES), "float32")]


def _token_id(fields: Fields, name: str, default: int, vocab_size: int) -> int | None:
    """None where the id lies beyond the vocabulary, as defaults do in a tiny model."""
    if name in fields.values and fields.values[name] is None:
        return None
    token_id = fields.integer(name, 0, (1 << 31) - 1, default)
    return token_id if token_id < vocab_size else None


def _eos_token_ids(config: Fields, generation: Fields, vocab_size: int) -> tuple[int, ...]:
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
    if "eos_token_id" not in config.values and vocab_size > 32000:
        ids.add(32000)
    return tuple(sorted(ids))


def _id2label(fields: Fields, task: Task) -> tuple[str, ...]:
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


def _problem_type(fields: Fields) -> str | None:
    if fields.values.get("problem_type") is None:
        return None
    return fields.choice("problem_type", PROBLEM_TYPES)


def _generation_defaults(fields: Fields) -> GenerationDefaults:
    default = GenerationDefaults()
    temperature = fields.values.get("temperature")
    min_p = fields.values.get("min_p")
    return GenerationDefaults(
        do_sample=fields.flag("do_sample", default.do_sample),
        # Zero means greedy to some writers; any other number must be a usable temperature.
        temperature=0.0
        if temperature == 0 and not isinstance(temperature, bool)
        else fields.number("temperature", 0.0, 100.0, default.temperature),
        top_k=fields.integer("top_k", 0, 1 << 22, default.top_k),
        top_p=fields.number("top_p", 0.0, 1.0, default.top_p),
        # Numbers are above their lower bound, and zero is how writers turn this one off.
        min_p=0.0
        if min_p == 0 and not isinstance(min_p, bool)
        else fields.number("min_p", 0.0, 1.0, default.min_p),
        typical_p=fields.number("typical_p", 0.0, 1.0, default.typical_p),
        repetition_penalty=fields.number(
            "repetition_penalty", 0.01, 100.0, default.repetition_penalty
        ),
    )
