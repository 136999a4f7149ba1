"""transformers on torch: its model called in a plain loop, which is faster than its generate."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tests.bench.peers import workload

FLAGS = "attn_implementation sdpa, bfloat16; DynamicCache; logits of the last token only"


class Transformers:
    def __init__(self, path: Path, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
        ).eval()

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        cache = DynamicCache(config=self._model.config)
        ids = torch.tensor(prompts)
        for _ in range(num_new):
            output = self._model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            ids = output.logits[:, -1].argmax(-1, keepdim=True)
            for sequence, token in enumerate(ids[:, 0].tolist()):
                on_token(sequence, token)


def load(path: Path, format_name: str, num_threads: int) -> Transformers:
    return Transformers(path, num_threads)
