"""ONNX Runtime GenAI: its Generator, which takes a batch of equally long prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from tests.bench.peers import workload

FLAGS = (
    "CPU provider; blocks of 32, accuracy_level 4 (activations int8): the builder's defaults for "
    "a CPU; prune_lm_head; past and present share their buffer"
)


class OnnxRuntimeGenai:
    def __init__(self, path: Path, num_threads: int) -> None:
        config = genai.Config(str(path))
        options = {"intra_op_num_threads": num_threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = genai.Model(config)

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        length = len(prompts[0]) + num_new
        params = genai.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(prompts), min_length=length, max_length=length, do_sample=False
        )
        generator = genai.Generator(self._model, params)
        batch = np.array(prompts, dtype=np.int32)
        generator.append_tokens(batch if len(prompts) > 1 else batch[0])
        for _ in range(num_new):
            generator.generate_next_token()
            for sequence, token in enumerate(generator.get_next_tokens()):
                on_token(sequence, int(token))


def load(path: Path, format_name: str, num_threads: int) -> OnnxRuntimeGenai:
    return OnnxRuntimeGenai(path, num_threads)
