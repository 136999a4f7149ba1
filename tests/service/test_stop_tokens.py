"""What ends an answer of each of the family's checkpoints: the union of three files."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.engine.async_engine import ModelInfo
from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.convert import read_generate
from phi3svc.v1 import generation_service_pb2

PHI3_TOKENS = {"<s>": 1, "<|endoftext|>": 32000, "<|assistant|>": 32001, "<|end|>": 32007}
PHI4_TOKENS = {"<|endoftext|>": 100257, "<|im_start|>": 100264, "<|im_end|>": 100265}
PHI4_MINI_TOKENS = {"<|endoftext|>": 199999, "<|assistant|>": 200019, "<|end|>": 200020}

Ids = int | list[int] | None


@dataclass(frozen=True)
class Member:
    """What the three files say, and what ends an answer. tokens: None for Phi-3-small's file."""

    config: Ids
    generation: Ids
    tokenizer: str | None
    expected: list[int]
    tokens: dict[str, int] | None
    vocab_size: int


MEMBERS = {
    "phi-3-mini": Member(
        32000, [32000, 32001, 32007], "<|endoftext|>", [32000, 32001, 32007], PHI3_TOKENS, 32064
    ),
    "phi-3-mini without its generation config": Member(
        32000, None, "<|endoftext|>", [32000], PHI3_TOKENS, 32064
    ),
    "a fine-tune that names its end in the tokenizer alone": Member(
        32000, 32000, "<|end|>", [32000, 32007], PHI3_TOKENS, 32064
    ),
    "a tokenizer without an end": Member(32000, 32007, None, [32000, 32007], PHI3_TOKENS, 32064),
    "an end that the vocabulary lacks": Member(300, None, "<|end|>", [300], PHI3_TOKENS, 32007),
    "phi-3-small": Member(100257, None, None, [100257, 100266], None, 100352),
    "phi-4 at release": Member(100257, None, "<|endoftext|>", [100257], PHI4_TOKENS, 100352),
    "phi-4 fixed in the tokenizer": Member(
        100257, 100257, "<|im_end|>", [100257, 100265], PHI4_TOKENS, 100352
    ),
    "phi-4": Member(100265, 100265, "<|im_end|>", [100265], PHI4_TOKENS, 100352),
    "phi-4-reasoning": Member(
        100265, [100265, 100257], "<|im_end|>", [100257, 100265], PHI4_TOKENS, 100352
    ),
    "phi-4-mini": Member(
        199999, [200020, 199999], "<|endoftext|>", [199999, 200020], PHI4_MINI_TOKENS, 200064
    ),
    "phi-4-mini fixed in the tokenizer": Member(
        199999, None, "<|end|>", [199999, 200020], PHI4_MINI_TOKENS, 200064
    ),
}


def write(path: Path, member: Member) -> None:
    config: dict[str, object] = {
        "model_type": "phi3" if member.tokens else "phi3small",
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": member.vocab_size,
        "max_position_embeddings": 512,
        "torch_dtype": "float32",
        "eos_token_id": member.config,
        "intermediate_size" if member.tokens else "ff_intermediate_size": 112,
    }
    (path / "config.json").write_text(json.dumps(config))
    if member.generation is not None:
        generation = {"eos_token_id": member.generation}
        (path / "generation_config.json").write_text(json.dumps(generation))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": member.tokenizer}))
    if member.tokens is None:
        tokens = [bytes([b]) for b in range(256)] + [b"%05x" % i for i in range(100_000)]
        lines = (base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))
        (path / "cl100k_base.tiktoken").write_bytes(b"".join(lines))
        return
    unset = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": token_id, "content": content, "special": True, **unset}
        for content, token_id in member.tokens.items()
    ]
    vocab = {f"t{i}": i for i in range(max(member.tokens.values()))} | member.tokens
    (path / "tokenizer.json").write_text(
        json.dumps(
            {
                "added_tokens": added,
                "decoder": {"type": "Fuse"},
                "model": {"type": "BPE", "vocab": vocab, "merges": []},
            }
        )
    )


@pytest.mark.parametrize("name", MEMBERS)
def test_three_files_name_what_ends_an_answer(name: str, tmp_path: Path) -> None:
    member = MEMBERS[name]
    write(tmp_path, member)
    config = Phi3Config.from_dir(tmp_path)
    info = ModelInfo("m", tmp_path, config, 512, "float32", "", frozenset({"generation"}))
    catalog = Catalog([ServedModel.load(info)])
    request = generation_service_pb2.GenerateRequest(prompt="x")
    assert read_generate(request, catalog).stop_token_ids == member.expected
    request.stop.ignore_eos = True
    request.stop.token_ids.append(5)
    assert read_generate(request, catalog).stop_token_ids == [5]
