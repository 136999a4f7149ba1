"""A model of a shape with random weights, made on the device; nothing is kept on disk."""

from __future__ import annotations

from collections.abc import Callable

import torch

from phi3svc import ops
from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import Phi3Config
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import FailedEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import build_network, expected_shapes
from phi3svc.model.network import Network
from phi3svc.model.packing import PackingSource
from tests.bench.gpu.generation import NUM_NEW, PROMPT_LEN
from tests.bench.gpu.shapes import Shape

MAX_STEP_TOKENS = 8192


class RandomTensors:
    """A `TensorSource` of normal numbers, made where they are packed."""

    def __init__(self, config: Phi3Config, device: torch.device) -> None:
        self._shapes = expected_shapes(config)
        self._device = device

    def __contains__(self, name: str) -> bool:
        return name in self._shapes and not name.startswith("score.")

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, dtype=dtype, device=self._device)
        return torch.empty(shape, dtype=dtype, device=self._device).normal_(std=0.02)


def random_network(shape: Shape, format: str, device: torch.device) -> Network:
    config = Phi3Config.from_dict(
        {
            "model_type": "phi3",
            "architectures": ["Phi3ForCausalLM"],
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.mlp_width,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        }
    )
    source = PackingSource(RandomTensors(config, device), format, device=device)
    return build_network(config, source)


def make_generate(network: Network, batch: int) -> Callable[[torch.Tensor, int], None]:
    """`generation.Generate` of the engine's core, as `phi3svc serve` steps it."""
    config = EngineConfig(
        prefix_cache=False,
        max_draft_tokens=0,
        max_sequences=batch,
        max_step_tokens=MAX_STEP_TOKENS,
    )
    num_blocks = batch * -(-(PROMPT_LEN + NUM_NEW) // ops.PAGE_SIZE)
    core = EngineCore(network, config, num_blocks)

    def generate(prompts: torch.Tensor, num_new: int) -> None:
        for i, prompt in enumerate(prompts.tolist()):
            core.add(
                GenerateRequest(
                    str(i),
                    "bench",
                    tuple(prompt),
                    sampling=SamplingParams(temperature=0.0),
                    max_new_tokens=num_new,
                )
            )
        while core.has_work:
            for event in core.step():
                if isinstance(event, FailedEvent):
                    raise RuntimeError(str(event))

    return generate
