"""Phi-3-mini at its full size with random weights: writes the checkpoint, and runs it.

    python -m tests.model.full_size FOLDER DTYPE CACHE

loads the checkpoint in FOLDER through the engine, generates, and prints one JSON object: times, the
tokens, and the peak of this process's memory as the kernel saw it. DTYPE and CACHE are what
`--dtype` and `--packed-cache` take.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import time
import zlib
from pathlib import Path

import torch
from torch import Tensor

from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import Phi3Config
from phi3svc.config.server import ModelSpec
from phi3svc.engine.local import LocalEngine
from phi3svc.model.loader import expected_shapes
from tests.engine.requests import generate
from tests.model.checkpoints import write_tokenizer
from tests.model.family import FAMILY

MAX_SHARD_BYTES = 2 << 30
PROMPTS = ([*range(1, 41)], [*range(100, 130)], [7])
NUM_NEW = 8
NUM_BLOCKS = 12
"""Of keys and values, 16 tokens each: just what the prompts and their answers fill."""


def write_phi3_mini(path: Path) -> Path:
    """Sharded safetensors in bfloat16, as Microsoft publishes it; holds one tensor at a time."""
    member = next(member for member in FAMILY if member.name == "Phi-3-mini-128k")
    (path / "config.json").write_text(json.dumps(member.config()))
    write_tokenizer(path)
    shapes = expected_shapes(Phi3Config.from_dir(path))
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02
    shards: list[list[str]] = [[]]
    for name in shapes:
        if 2 * sum(math.prod(shapes[n]) for n in [*shards[-1], name]) > MAX_SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        _write_shard(path / file, {name: shapes[name] for name in names}, noise)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def _write_shard(file: Path, shapes: dict[str, tuple[int, ...]], noise: Tensor) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(data).to_bytes(8, "little") + data)
        for name, shape in shapes.items():
            if name.endswith("norm.weight"):
                weight = torch.ones(shape, dtype=torch.bfloat16)
            else:
                # The same noise, turned by another number for every tensor.
                length, start = math.prod(shape), zlib.crc32(name.encode()) % len(noise)
                turned = torch.cat([noise[start:], noise[:start]])
                weight = turned.repeat(-(-length // len(noise)))[:length]
            stream.write(weight.view(torch.uint8).numpy().data)


async def serve(path: Path, dtype: str, cache: str) -> dict[str, object]:
    """Each prompt alone, then all together."""
    kv_bytes_per_token = Phi3Config.from_dir(path).kv_bytes_per_token("bfloat16")
    kv_bytes = NUM_BLOCKS * 16 * kv_bytes_per_token
    config = EngineConfig(kv_memory_bytes=kv_bytes, prefix_cache=False, packed_cache=cache)
    engine = LocalEngine([ModelSpec("mini", str(path), dtype)], config)
    begun_s = time.perf_counter()
    await engine.start()
    loaded_s = time.perf_counter()

    async def answer(prompt_ids: list[int]) -> list[int]:
        stream = engine.generate(generate("a", prompt_ids, NUM_NEW, model="mini"))
        return [token_id async for event in stream for token_id in event.token_ids]

    alone = [await answer(prompt_ids) for prompt_ids in PROMPTS]
    together = await asyncio.gather(*map(answer, PROMPTS))
    ended_s = time.perf_counter()
    await engine.close()
    return {
        "load_s": loaded_s - begun_s,
        "generate_s": ended_s - loaded_s,
        "alone": alone,
        "together": together,
        "kv_bytes": kv_bytes,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Most that this process ever had in memory; since its exec, unlike getrusage's.

    Anonymous pages and those of mapped files: weights in a cache's file count like others.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(Path(sys.argv[1]), *sys.argv[2:]))))
