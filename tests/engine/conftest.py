"""Tiny checkpoints, made once; one torch thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from phi3svc.config.model import Phi3Config
from phi3svc.text.tokenizer import Tokenizer
from tests.engine.scripted_engine import ScriptedEngine, make_info
from tests.model.checkpoints import make_checkpoint, make_tiny_causal
from tests.model.small_checkpoints import make_small_checkpoint


@pytest.fixture(scope="session", autouse=True)
def quiet_single_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation model: grouped queries, LongRoPE from 32 tokens on, 512 positions."""
    return make_tiny_causal(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many kv heads as query heads, tied embeddings, partial rotation, a sliding window."""
    return make_tiny_causal(
        tmp_path_factory.mktemp("windowed"),
        num_key_value_heads=4,
        tie_word_embeddings=True,
        partial_rotary_factor=0.5,
        sliding_window=20,
        seed=1,
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3-small: block-sparse but for one layer, LongRoPE from 32 tokens on."""
    return make_small_checkpoint(tmp_path_factory.mktemp("small"), original=32)


@pytest.fixture(scope="session")
def two_headed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifiers that can also generate, by task."""
    paths = {}
    for task, architecture in (
        ("sequence-classification", "Phi3ForSequenceClassification"),
        ("token-classification", "Phi3ForTokenClassification"),
    ):
        path = tmp_path_factory.mktemp(task)
        make_checkpoint(path, architecture, labels=("a", "b", "c"), original=32)
        weights = load_file(path / "model.safetensors")
        generator = torch.Generator().manual_seed(7)
        weights["lm_head.weight"] = torch.randn(300, 64, generator=generator) * 0.15
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        paths[task] = path
    return paths


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.from_dir(tiny)


@pytest.fixture
async def engine(tiny: Path) -> ScriptedEngine:
    client = ScriptedEngine(make_info(Phi3Config.from_dir(tiny)))
    await client.start()
    return client
