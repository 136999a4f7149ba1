"""What block-sparse attention saves: `.venv/bin/python -m tests.bench.block_sparse`.

Runs `ops.attention` in the shape of Phi-3-small (H 32, K 8, D 128) with its pattern and dense, over
a context of 8192 keys on scattered pages: one token each of 1 and of 8 sequences, and the last 512
tokens of a prompt. Runs of both kinds alternate; each figure is the median, as other programs of
the machine disturb both alike. "keys" is the share of visible keys that the pattern keeps: for a
query head, and for a kv head, whose pages are read once for all heads of its group. Prints the
table kept in tests/bench/results/block_sparse.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from phi3svc import ops

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 32, 8, 128
CONTEXT_LEN = 8192
PATTERN = ops.BlockSparse(block_size=64, num_local_blocks=16, vertical_stride=8, head_step=1)
CASES = {"decode 1": (1, 1), "decode 8": (8, 1), "last 512 of a prompt": (1, 512)}

Attend = Callable[[ops.BlockSparse | None], None]


def make_attend(num_sequences: int, num_queries: int, kv_dtype: torch.dtype) -> Attend:
    """Attention of the last `num_queries` tokens of each sequence, with a pattern or without."""
    generator = torch.Generator().manual_seed(0)
    num_pages = num_sequences * CONTEXT_LEN // ops.PAGE_SIZE
    pages = []
    for shape in ops.kv_cache_shapes(num_pages, NUM_KV_HEADS, HEAD_DIM, kv_dtype):
        if kv_dtype == torch.int8:
            pages.append(torch.randint(-127, 128, shape, dtype=kv_dtype, generator=generator))
        else:
            pages.append(torch.randn(shape, generator=generator).to(kv_dtype))
    scales: list[torch.Tensor] = []
    if kv_dtype == torch.int8:
        scales_shape = ops.kv_scales_shape(num_pages, NUM_KV_HEADS)
        scales = [torch.rand(scales_shape, generator=generator) / 64 for _ in range(2)]
    tables = torch.randperm(num_pages, generator=generator).int().view(num_sequences, -1)
    num_tokens = num_sequences * num_queries
    q = torch.randn(num_tokens, NUM_HEADS, HEAD_DIM, generator=generator).bfloat16()
    starts = torch.arange(0, num_tokens + 1, num_queries, dtype=torch.int32)
    context_lens = torch.full((num_sequences,), CONTEXT_LEN, dtype=torch.int32)
    out = torch.empty(num_tokens, NUM_HEADS * HEAD_DIM, dtype=torch.bfloat16)

    def attend(pattern: ops.BlockSparse | None) -> None:
        ops.attention(
            q, *pages, tables, starts, context_lens, 0, 1 / HEAD_DIM, out, *scales,
            block_sparse=pattern,
        )  # fmt: skip

    return attend


def measure(attend: Attend, min_rounds: int, min_seconds: float) -> tuple[float, float]:
    """Median seconds, dense and block-sparse."""
    seconds: dict[ops.BlockSparse | None, list[float]] = {None: [], PATTERN: []}
    for pattern in seconds:
        attend(pattern)
    end = time.perf_counter() + min_seconds
    while len(seconds[None]) < min_rounds or time.perf_counter() < end:
        for pattern, figures in seconds.items():
            start = time.perf_counter()
            attend(pattern)
            figures.append(time.perf_counter() - start)
    return statistics.median(seconds[None]), statistics.median(seconds[PATTERN])


def kept(num_queries: int) -> tuple[float, float]:
    """Which share of the visible keys the pattern keeps: for a query head, for a kv head."""
    group = NUM_HEADS // NUM_KV_HEADS
    query = torch.arange(CONTEXT_LEN - num_queries, CONTEXT_LEN)[:, None]
    key = torch.arange(CONTEXT_LEN)
    head = torch.arange(NUM_HEADS)[:, None, None]
    query_block, key_block = query // PATTERN.block_size, key // PATTERN.block_size
    is_local = query_block - key_block < PATTERN.num_local_blocks
    is_vertical = (key_block + head * PATTERN.head_step + 1) % PATTERN.vertical_stride == 0
    visible = key <= query
    seen = (is_local | is_vertical) & visible
    by_kv_head = seen.unflatten(0, (NUM_KV_HEADS, group)).any(1)
    num_visible = visible.sum().item()
    return (
        seen.sum().item() / NUM_HEADS / num_visible,
        by_kv_head.sum().item() / NUM_KV_HEADS / num_visible,
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of each kind, at least")
    parser.add_argument("--seconds", type=float, default=4.0, help="per line, at least")
    parser.add_argument("--threads", type=int, default=ops.num_threads())
    args = parser.parse_args()
    ops.set_num_threads(args.threads)
    print(f"{cpu_name()}, {ops.isa()}, {args.threads} threads\n")
    print("| queries | KV | dense, ms | block-sparse, ms | ratio | keys: head, kv head |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (num_sequences, num_queries) in CASES.items():
        shares = ", ".join(f"{share:.2f}" for share in kept(num_queries))
        for kv_dtype in (torch.bfloat16, torch.int8):
            attend = make_attend(num_sequences, num_queries, kv_dtype)
            dense, sparse = measure(attend, args.rounds, args.seconds)
            kv = str(kv_dtype).removeprefix("torch.")
            print(
                f"| {name} | {kv} | {1e3 * dense:.2f} | {1e3 * sparse:.2f} | "
                f"{sparse / dense:.2f} | {shares} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
