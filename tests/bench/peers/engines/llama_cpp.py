"""llama.cpp, through the C interface that llama-cpp-python binds."""

from __future__ import annotations

from pathlib import Path

import llama_cpp as api

from tests.bench.peers import workload

FLAGS = (
    "native build; flash attention on, but off to decode one sequence, each where it is faster; "
    "n_batch 2048, n_ubatch 512; mmap; weights repacked (use_extra_bufts); one KV stream per "
    "sequence; every matrix in the format, the head too"
)


class LlamaCpp:
    def __init__(self, path: Path, num_threads: int) -> None:
        self._log = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self._log, None)
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(path / "model.gguf").encode(), api.llama_model_default_params()
        )
        self._sampler = api.llama_sampler_init_greedy()
        self._num_threads = num_threads
        self._context = None
        self._shape = (0, 0, False)
        self._batch = api.llama_batch_init(workload.MAX_CONTEXT, 0, 1)

    def _prepare(self, num_sequences: int, length: int, *, is_flash: bool) -> None:
        """A context for so many sequences; one that serves already is emptied."""
        # A sequence's share is a fixed part of the context.
        shape = (num_sequences, length, is_flash)
        if shape != self._shape:
            if self._context is not None:
                api.llama_free(self._context)
            params = api.llama_context_default_params()
            params.n_ctx = num_sequences * -(-length // 256) * 256
            params.n_batch = 2048
            params.n_ubatch = 512
            params.n_seq_max = num_sequences
            params.n_threads = params.n_threads_batch = self._num_threads
            params.flash_attn_type = (
                api.LLAMA_FLASH_ATTN_TYPE_ENABLED
                if is_flash
                else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            )
            self._context = api.llama_init_from_model(self._model, params)
            if not self._context:
                raise RuntimeError("llama.cpp makes no context")
            self._shape = shape
        api.llama_memory_clear(api.llama_get_memory(self._context), False)

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        length = len(prompts[0])
        is_flash = len(prompts) > 1 or num_new == 1
        self._prepare(len(prompts), length + num_new, is_flash=is_flash)
        rows = [
            (token, position, sequence, position == length - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        tokens = self._decode(rows)
        for step in range(num_new):
            if step:
                rows = [(token, length + step - 1, i, True) for i, token in enumerate(tokens)]
                tokens = self._decode(rows)
            for sequence, token in enumerate(tokens):
                on_token(sequence, token)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        batch = self._batch
        batch.n_tokens = len(rows)
        outputs = []
        for i, (token, position, sequence, is_output) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = is_output
            if is_output:
                outputs.append(i)
        if api.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        return [api.llama_sampler_sample(self._sampler, self._context, i) for i in outputs]


def load(path: Path, format_name: str, num_threads: int) -> LlamaCpp:
    return LlamaCpp(path, num_threads)
