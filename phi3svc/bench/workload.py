"""What is asked of the server: how many requests, how long, and how they come."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from phi3svc.errors import ConfigError

# Special ids lie at the ends of every Phi vocabulary. A rule that needs no tokenizer gives a remote
# server, whose tokenizer we cannot see, the same prompts as a local engine.
EDGE_FRACTION = 0.05


@dataclass(frozen=True)
class Workload:
    """Settings of one run, checked when it is made.

    rate: requests per second in an open loop, 0 for all at once. concurrency: requests in flight in
    a closed loop; 0 means an open loop. prompt_len, max_new_tokens: tokens per request. seed: of
    prompts and arrivals. num_warmup: requests before the run that count for nothing. coalesce_ms:
    how long the server may hold tokens back for company.
    """

    num_requests: int = 64
    prompt_len: int = 64
    max_new_tokens: int = 64
    ignore_eos: bool = False
    rate: float = 0.0
    concurrency: int = 0
    num_warmup: int = 4
    seed: int = 0
    coalesce_ms: int = 0

    def __post_init__(self) -> None:
        _check("requests", self.num_requests, 1, 1_000_000)
        _check("prompt-tokens", self.prompt_len, 1, 1 << 20)
        _check("max-new-tokens", self.max_new_tokens, 1, 1 << 20)
        _check("concurrency", self.concurrency, 0, 100_000)
        _check("warmup", self.num_warmup, 0, 100_000)
        _check("coalesce-ms", self.coalesce_ms, 0, 10_000)
        if not (math.isfinite(self.rate) and 0 <= self.rate <= 1e6):
            raise ConfigError(f"--rate {self.rate}: must be 0 to 1000000 requests per second")
        if self.rate and self.concurrency:
            raise ConfigError("--rate and --concurrency: an open and a closed loop, give only one")

    @property
    def is_open_loop(self) -> bool:
        return self.concurrency == 0

    def check_fits(self, model: str, max_context_len: int) -> None:
        """Raise ConfigError if a request of this size exceeds the model's context."""
        if self.prompt_len + self.max_new_tokens > max_context_len:
            raise ConfigError(
                f"--prompt-tokens {self.prompt_len} and --max-new-tokens {self.max_new_tokens}:"
                f" the context of model {model!r} holds {max_context_len}"
            )

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """One prompt per request; random, so that no two share more than a token by chance."""
        return [self._prompt(f"prompt:{i}", vocab_size) for i in range(self.num_requests)]

    def warmup_prompts(self, vocab_size: int) -> list[list[int]]:
        """Others than those of the run, lest a cache remember them."""
        return [self._prompt(f"warmup:{i}", vocab_size) for i in range(self.num_warmup)]

    def _prompt(self, name: str, vocab_size: int) -> list[int]:
        edge = math.ceil(vocab_size * EDGE_FRACTION)
        draws = random.Random(f"{self.seed}:{name}")
        return draws.choices(range(edge, max(vocab_size - edge, edge + 1)), k=self.prompt_len)


def _check(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"--{flag} {value}: must be {low} to {high}")
