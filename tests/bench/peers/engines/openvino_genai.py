"""OpenVINO GenAI: its continuous batching, stepped by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai

from tests.bench.peers import workload

FLAGS = (
    "ContinuousBatchingPipeline; a prompt in one piece (max_num_batched_tokens 4096); activations "
    "quantized in groups of 128 (its default of 32 is slower by a quarter); KV cache in its "
    "default precision; int4: symmetric, groups of 128, the head too (--all-layers)"
)


class OpenvinoGenai:
    def __init__(self, path: Path, num_threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 4096
        scheduler.max_num_seqs = workload.MAX_SEQUENCES
        scheduler.enable_prefix_caching = False
        properties = {
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
        }
        self._pipeline = genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", properties)
        self._num_requests = 0

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens = num_new
        config.min_new_tokens = num_new
        config.ignore_eos = True
        config.do_sample = False
        handles = []
        for prompt in prompts:
            ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
            handles.append(self._pipeline.add_request(self._num_requests, ids, config))
            self._num_requests += 1
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for sequence, handle in enumerate(handles):
                if handle.can_read():
                    for output in handle.read().values():
                        for token in output.generated_ids:
                            on_token(sequence, token)


def load(path: Path, format_name: str, num_threads: int) -> OpenvinoGenai:
    return OpenvinoGenai(path, num_threads)
