"""One model and its KV memory: computes what a step's batch asks for."""

from __future__ import annotations

import torch

from phi3svc import ops
from phi3svc.engine.batch import OutputRows, to_model_input
from phi3svc.engine.chunks import Batch, ChunkOutput
from phi3svc.engine.sampler import sample
from phi3svc.model.inputs import int32_tensor
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.phi3 import Phi3Network


class Runner:
    """Runs batches on a network. KV page i is the scheduler's block i."""

    def __init__(self, network: Phi3Network, kv: KVCache) -> None:
        self._network = network
        self._kv = kv

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[ChunkOutput]:
        """One output per chunk: its next token, the scores of its rows, or None."""
        h = self._network.forward(to_model_input(batch, ops.PAGE_SIZE), self._kv)
        rows = OutputRows.of(batch)
        outputs: list[ChunkOutput] = [None] * len(batch.chunks)
        if rows.token_chunks:
            logits = self._network.logits(h, int32_tensor(rows.token_rows))
            sequences = [batch.chunks[index].sequence for index in rows.token_chunks]
            for index, token in zip(rows.token_chunks, sample(logits, sequences), strict=True):
                outputs[index] = token
        if rows.score_chunks:
            scores = self._network.scores(h, int32_tensor(rows.score_rows)).tolist()
            start = 0
            for index in rows.score_chunks:
                end = start + len(batch.chunks[index].wanted_rows)
                outputs[index] = scores[start:end]
                start = end
        return outputs
