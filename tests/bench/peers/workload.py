"""What every engine is asked to do, and how it is timed; imports nothing but Python's own."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

VOCAB = 32064
MAX_SEQUENCES = 16
MAX_CONTEXT = 2048 + 64
PROMPT_LEN, LONG_PROMPT_LEN, SHORT_PROMPT_LEN = 512, 2048, 64

OnToken = Callable[[int, int], None]
"""Called with a sequence's place in the batch and its next token's id, as soon as it is known."""


class Engine(Protocol):
    """A loaded model of a peer or of ours."""

    def generate(self, prompts: list[list[int]], num_new: int, on_token: OnToken) -> None:
        """Greedy, `num_new` tokens for every prompt whatever they are, all prompts at once; keeps
        nothing of an earlier call. The prompts are equally long."""


@dataclass(frozen=True)
class Sizes:
    """num_prompts: of 512 tokens. num_decoded: tokens of one sequence, and of each of several."""

    num_prompts: int
    num_decoded: int
    num_decoded_each: int

    @classmethod
    def of(cls, is_quick: bool) -> Sizes:
        return cls(1, 12, 8) if is_quick else cls(2, 48, 24)


@dataclass
class Call:
    """One `generate`, timed. Times in seconds since its start."""

    num_sequences: int
    times: list[list[float]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)

    def run(self, engine: Engine, prompts: list[list[int]], num_new: int) -> None:
        self.times = [[] for _ in prompts]
        self.tokens = [[] for _ in prompts]
        start = time.perf_counter()

        def on_token(sequence: int, token: int) -> None:
            self.times[sequence].append(time.perf_counter() - start)
            self.tokens[sequence].append(token)

        engine.generate(prompts, num_new, on_token)
        lengths = {len(tokens) for tokens in self.tokens}
        if lengths != {num_new}:
            raise RuntimeError(f"asked for {num_new} tokens each, got {sorted(lengths)}")

    @property
    def first_s(self) -> float:
        return self.times[0][0]

    @property
    def tokens_per_s(self) -> float:
        """While all sequences are running: from the moment at which the last one has its first
        token to the moment at which the first one has its last."""
        begin = max(times[0] for times in self.times)
        end = min(times[-1] for times in self.times)
        num_tokens = sum(begin < t <= end for times in self.times for t in times)
        return num_tokens / (end - begin)


class Prompts:
    """Random token ids, no two prompts alike; the same for every engine."""

    def __init__(self) -> None:
        self._generator = random.Random(0)

    def next(self, num_sequences: int, length: int) -> list[list[int]]:
        return [
            [self._generator.randrange(300, VOCAB) for _ in range(length)]
            for _ in range(num_sequences)
        ]


def measure(load: Callable[[], Engine], is_quick: bool) -> dict[str, object]:
    """Every figure of one process. Rates in tokens/s, times in seconds."""
    sizes, prompts = Sizes.of(is_quick), Prompts()
    start = time.perf_counter()
    engine = load()
    loaded_s = time.perf_counter() - start
    first = _call(engine, prompts.next(1, 16), 1)
    figures: dict[str, object] = {"load_s": loaded_s, "start_s": loaded_s + first.first_s}
    _call(engine, prompts.next(1, PROMPT_LEN), 4)  # threads, scratch memory
    calls = [_call(engine, prompts.next(1, PROMPT_LEN), 1) for _ in range(sizes.num_prompts)]
    figures["prefill_512"] = statistics.median(PROMPT_LEN / call.first_s for call in calls)
    call = _call(engine, prompts.next(1, PROMPT_LEN), sizes.num_decoded)
    figures["decode_1"] = call.tokens_per_s
    figures["first_tokens"] = call.tokens[0][:8]
    call = _call(engine, prompts.next(1, LONG_PROMPT_LEN), 1)
    figures["prefill_2048"] = LONG_PROMPT_LEN / call.first_s
    for num_sequences in (8, MAX_SEQUENCES):
        batch = prompts.next(num_sequences, SHORT_PROMPT_LEN)
        call = _call(engine, batch, sizes.num_decoded_each)
        figures[f"decode_{num_sequences}"] = call.tokens_per_s
    return figures


def _call(engine: Engine, prompts: list[list[int]], num_new: int) -> Call:
    call = Call(len(prompts))
    call.run(engine, prompts, num_new)
    return call
