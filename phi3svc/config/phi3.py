"""config.json of Phi-3 and what shares its architecture: mini, medium, 3.5, Phi-4, Phi-4-mini.

Two dialects load alike: transformers 4 wrote `rope_scaling`, `rope_theta`,
`partial_rotary_factor` and `torch_dtype` at the top level; transformers 5 writes `rope_parameters`
and `dtype`. Defaults are those of transformers' Phi3Config, except that sizes must be given.
"""

from __future__ import annotations

from collections.abc import Mapping

from phi3svc.config.common_fields import (
    read_architecture,
    read_dtype,
    read_eos_token_ids,
    read_head_dim,
    read_labels,
    read_num_kv_heads,
    read_problem_type,
    read_token_id,
)
from phi3svc.config.generation_defaults import read_generation_defaults
from phi3svc.config.json_file import Fields
from phi3svc.config.model import Phi3Config, Task
from phi3svc.config.rope import MAX_POSITIONS, read_rope

TASKS: Mapping[str, Task] = {
    "Phi3ForCausalLM": "generation",
    "Phi3ForSequenceClassification": "sequence-classification",
    "Phi3ForTokenClassification": "token-classification",
    "Phi3Model": "hidden-states",
}
_END_OF_TEXT_ID = 32000


def read_phi3(fields: Fields, generation: Fields) -> Phi3Config:
    """Raises ConfigError naming field, value and range."""
    fields.choice("hidden_act", ("silu",), "silu")
    architecture = read_architecture(fields, TASKS)
    task = TASKS[architecture]
    hidden_size = fields.integer("hidden_size", 1, 1 << 17)
    num_heads = fields.integer("num_attention_heads", 1, 1 << 12)
    num_kv_heads = read_num_kv_heads(fields, num_heads)
    head_dim = read_head_dim(fields, hidden_size, num_heads)
    max_positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    # transformers lets the top-level value win over one inside rope_parameters, and its class
    # default (4096) too; a checkpoint that it saved always has the top-level one.
    original = fields.integer("original_max_position_embeddings", 2, MAX_POSITIONS, 4096)
    vocab_size = fields.integer("vocab_size", 1, 1 << 22)
    return Phi3Config(
        model_type="phi3",
        architecture=architecture,
        task=task,
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
        dtype=read_dtype(fields),
        bos_token_id=read_token_id(fields, "bos_token_id", 1, vocab_size),
        eos_token_ids=read_eos_token_ids(fields, generation, vocab_size, _END_OF_TEXT_ID),
        pad_token_id=read_token_id(fields, "pad_token_id", _END_OF_TEXT_ID, vocab_size),
        labels=read_labels(fields, task),
        problem_type=read_problem_type(fields),
        token_classification_bias=fields.flag("token_classification_bias", True),
        use_cache=fields.flag("use_cache", True),
        initializer_range=fields.number("initializer_range", 0.0, 100.0, 0.02),
        generation=read_generation_defaults(generation),
    )
