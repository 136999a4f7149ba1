"""CTranslate2's Generator; its callback tells when a token is known."""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2

from tests.bench.peers import workload

FLAGS = "compute_type int8 (int8_float32); one batch; prompts forwarded at once"


class CTranslate2:
    def __init__(self, path: Path, num_threads: int) -> None:
        self._tokens = json.loads((path / "vocabulary.json").read_text())
        self._generator = ctranslate2.Generator(
            str(path), compute_type="int8", intra_threads=num_threads
        )

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        def tell(step: ctranslate2.GenerationStepResult) -> bool:
            on_token(step.batch_id, step.token_id)
            return False

        self._generator.generate_batch(
            [[self._tokens[token] for token in prompt] for prompt in prompts],
            max_length=num_new,
            min_length=num_new,
            include_prompt_in_result=False,
            callback=tell,
        )


def load(path: Path, format_name: str, num_threads: int) -> CTranslate2:
    return CTranslate2(path, num_threads)
