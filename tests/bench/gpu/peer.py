"""transformers on the same device: `python -m tests.bench.gpu.peer --shape mini --out FILE.json`.

Random weights of the model's shape, bfloat16, SDPA, a static cache, the decode step compiled, as
transformers compiles it: its fast path without other packages. Batches that do not fit in memory
are a line that says so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from tests.bench.gpu.generation import BATCHES, NUM_NEW, PROMPT_LEN, Timed, timed_generation
from tests.bench.gpu.shapes import SHAPES, Shape


def load(shape: Shape, device: torch.device) -> Phi3ForCausalLM:
    config = Phi3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        attn_implementation="sdpa",
        dtype=torch.bfloat16,
    )
    with device:
        return Phi3ForCausalLM(config).to(torch.bfloat16).eval()


def measure(model: Phi3ForCausalLM, shape: Shape, batch: int) -> Timed:
    @torch.inference_mode()
    def generate(prompts: torch.Tensor, num_new: int) -> None:
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            min_new_tokens=num_new,
            max_new_tokens=num_new,
            do_sample=False,
            cache_implementation="static",
        )

    return timed_generation(generate, shape, batch, model.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    model = load(shape, torch.device(args.device))
    rows = []
    for batch in args.batches:
        try:
            rows.append({"batch": batch, **measure(model, shape, batch)._asdict()})
        except torch.OutOfMemoryError:
            rows.append({"batch": batch, "error": "out of memory"})
        print(rows[-1], flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        setting = {"engine": "transformers", "shape": args.shape, "format": "bfloat16"}
        setting |= {"prompt_len": PROMPT_LEN, "num_new": NUM_NEW}
        args.out.write_text(json.dumps({**setting, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
