"""What a checkpoint's config.json and generation_config.json say, checked once.

`config/phi3.py` and `config/phi3small.py` read the two kinds of config.json there are. Every size
is bounded before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from phi3svc.config.generation_defaults import GenerationDefaults
from phi3svc.config.json_file import Fields, read_json_object
from phi3svc.config.quantization import Quantization, read_quantization
from phi3svc.config.rope import RopeConfig
from phi3svc.config.tensors import first_float_dtype
from phi3svc.errors import ConfigError

Task = Literal["generation", "sequence-classification", "token-classification", "hidden-states"]
DType = Literal["float32", "bfloat16"]
KVDType = Literal["float32", "bfloat16", "int8", "fp8"]

# float16 has more mantissa than bfloat16 and less range, so float32 is the format that holds it.
DTYPES: Mapping[str, DType] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float32",
}
BYTES_PER_ELEMENT: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
MAX_PARAMS = 1 << 40


@dataclass(frozen=True)
class Phi3SmallSettings:
    """What Phi-3-small has and its siblings have not (`configuration_phi3_small.py`).

    embedding_multiplier, width_multiplier: embeddings are multiplied and logits divided by them
    (muP, Yang et al. 2022). attention_scale: what scores are multiplied by. gegelu_limit: infinity
    where there is none. block_size, num_local_blocks, vertical_stride: see `ops.BlockSparse`.
    head_step: 0 where all heads have one pattern. dense_every: of so many layers the last one is
    dense; 0 for none.
    """

    embedding_multiplier: float
    width_multiplier: float
    attention_scale: float
    gegelu_limit: float
    block_size: int
    num_local_blocks: int
    vertical_stride: int
    head_step: int
    dense_every: int

    def is_dense(self, layer_idx: int) -> bool:
        """Whether layer `layer_idx` (from 0) sees all keys."""
        return self.dense_every > 0 and (layer_idx + 1) % self.dense_every == 0


@dataclass(frozen=True)
class Phi3Config:
    """One Phi-3 checkpoint's shape and settings.

    max_position_embeddings: as config.json has it; see `context_len`.
    original_max_position_embeddings: up to here a LongRoPE sequence uses the short factors.
    rms_norm_eps: of all norms. sliding_window: a query at q sees keys k > q - sliding_window; None
    sees all. eos_token_ids: union of both files, ascending, without ids beyond the vocabulary,
    which no model can emit. labels: a classifier's, by id. task: what the architecture is for; a
    network may carry other heads besides. use_cache: whether the Python API's `forward` returns its
    cache unless told. initializer_range: deviation of random weights. small: of a Phi-3-small only;
    its norms are layer norms and its projections have biases. quantization: what the checkpoint's
    weights were quantized to; `dtype` is then that of the others.
    """

    model_type: str
    architecture: str
    task: Task
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
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    token_classification_bias: bool = True
    use_cache: bool = True
    initializer_range: float = 0.02
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    small: Phi3SmallSettings | None = None
    quantization: Quantization | None = None

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
        model_type = fields.choice("model_type", ("phi3", "phi3small"))
        quantization = read_quantization(fields)
        generation = Fields(generation_config or {}, f"{folder}generation_config.json")
        # Imported here: they build what this class is.
        if model_type == "phi3small":
            from phi3svc.config.phi3small import read_phi3small as read
        else:
            from phi3svc.config.phi3 import read_phi3 as read
        result = replace(read(fields, generation), quantization=quantization)
        if result.num_params > MAX_PARAMS:
            raise ConfigError(
                f"{fields.where}: the sizes make {result.num_params:.3g} parameters; "
                f"expected at most {MAX_PARAMS:.3g}"
            )
        return result

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
        final_norm = hidden
        if self.small is not None:
            biases = self.qkv_features + hidden + 2 * self.intermediate_size + hidden
            layer += biases + 2 * hidden
            final_norm += hidden
        embeddings = self.vocab_size * hidden
        head = 0
        if self.task == "generation":
            head = 0 if self.tie_word_embeddings else embeddings
        elif self.task != "hidden-states":
            head = len(self.labels) * hidden
            if self.task == "token-classification" and self.token_classification_bias:
                head += len(self.labels)
        return self.num_hidden_layers * layer + embeddings + final_norm + head

    def kv_bytes_per_token(self, dtype: KVDType) -> int:
        """Bytes that one token's keys and values take in all layers, int8 with its scales."""
        if dtype == "int8":
            per_head = self.head_dim + 4  # a float32 scale each
        elif dtype == "fp8":
            per_head = self.head_dim
        else:
            per_head = self.head_dim * BYTES_PER_ELEMENT[dtype]
        return self.num_hidden_layers * 2 * self.num_key_value_heads * per_head

    @property
    def context_len(self) -> int:
        """The longest sequence that is served, in tokens.

        Where linear, dynamic NTK or YaRN scaling stretches the original length to more than
        max_position_embeddings, which some checkpoints leave at what it was, it is that.
        """
        return max(self.max_position_embeddings, self.rope.stretched_len)

    def rope_set(self, sequence_len: int) -> int:
        """The set of inverse frequencies of a whole sequence: `RopeConfig.set_of`."""
        return self.rope.set_of(sequence_len)

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
