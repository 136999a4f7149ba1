"""Tokens per second with guessing ahead and without, on the embedded model.

    .venv/bin/python -m tests.bench.speculation

Tasks that repeat what was said (a story or an answer asked for again, a text that runs on) and one
that does not. Runs alternate, so that a machine that slows down slows both; medians of the ratios.
Prints the table kept in tests/bench/results/speculation.md.
"""

from __future__ import annotations

import statistics
import time

from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import TokenEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import load_network
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.tokenizer import Tokenizer

NUM_PAIRS = 9
MAX_DRAFT_TOKENS = EngineConfig.max_draft_tokens
STORY = "Tell me a story about a fox."
QUESTION = "What is the capital of France?"


class Bench:
    def __init__(self) -> None:
        path = resolve_source("demo").path
        self.network = load_network(path, "auto")
        self.tokenizer = Tokenizer.from_dir(path)
        self.template = ChatTemplate.from_dir(path)
        # As in a server, an engine has seen steps of all sizes before the one that counts.
        self.cores = {
            max_draft_tokens: EngineCore(
                self.network,
                EngineConfig(max_draft_tokens=max_draft_tokens, prefix_cache=False),
                num_blocks=4096,
            )
            for max_draft_tokens in (0, MAX_DRAFT_TOKENS)
        }
        self.stop_ids = sorted(self.network.config.eos_token_ids)

    def prompt(self, *turns: str) -> list[int]:
        """Turns of user and assistant, the user's first and last."""
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)
        ]
        text = self.template.render(messages, add_generation_prompt=True)
        return self.tokenizer.encode(text, parse_special=True)

    def run(
        self, prompt_ids: list[int], num_new: int, max_draft_tokens: int, num_sequences: int
    ) -> tuple[list[int], float, int, int]:
        """One answer, seconds from the first token on, guesses made and right."""
        core = self.cores[max_draft_tokens]
        stop_ids = [] if num_new > 400 else self.stop_ids
        for i in range(num_sequences):
            core.add(
                GenerateRequest(str(i), "demo", prompt_ids, SamplingParams(), num_new, stop_ids)
            )
        token_ids: list[int] = []
        num_drafted = num_accepted = 0
        started_s = 0.0
        while core.has_work:
            for event in core.step():
                assert isinstance(event, TokenEvent)
                if event.request_id == "0":
                    token_ids += event.token_ids
                if event.finish is not None and event.timings is not None:
                    num_drafted += event.timings.drafted_token_count
                    num_accepted += event.timings.accepted_token_count
            started_s = started_s or time.perf_counter()
        return token_ids, time.perf_counter() - started_s, num_drafted, num_accepted

    def row(self, name: str, prompt_ids: list[int], num_new: int, num_sequences: int) -> str:
        ratios = []
        for max_draft_tokens in self.cores:
            self.run(prompt_ids, num_new, max_draft_tokens, num_sequences)
        for _ in range(NUM_PAIRS):
            plain, plain_s, _, _ = self.run(prompt_ids, num_new, 0, num_sequences)
            guessed, guessed_s, drafted, accepted = self.run(
                prompt_ids, num_new, MAX_DRAFT_TOKENS, num_sequences
            )
            assert guessed == plain, "a guess has changed a token"
            ratios.append(plain_s / guessed_s)
        speed = statistics.median(ratios)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        return (
            f"| {name} | {num_sequences} | {len(plain)} | {drafted} | {accepted}"
            f" | **{speed:.2f} ×** | {spread} |"
        )


def main() -> None:
    bench = Bench()
    first = bench.prompt(STORY)
    story = bench.tokenizer.decode(bench.run(first, 400, 0, 1)[0])
    answer = bench.tokenizer.decode(bench.run(bench.prompt(QUESTION), 100, 0, 1)[0])
    tasks = {
        "a new story": (first, 400),
        "a story asked for again": (bench.prompt(STORY, story, STORY), 400),
        "an answer asked for again": (bench.prompt(QUESTION, answer, QUESTION), 100),
        "a text that runs on (ignore_eos)": (first, 600),
    }
    print("| task | sequences | tokens each | guessed | right | tokens/s | spread |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for num_sequences in (1, 4, 16):
        for name, (prompt_ids, num_new) in tasks.items():
            print(bench.row(name, prompt_ids, num_new, num_sequences), flush=True)


if __name__ == "__main__":
    main()
