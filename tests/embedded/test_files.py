"""The shipped checkpoints are what the design promises: small, complete, LongRoPE, labelled."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from phi3svc.config.checkpoint import EMBEDDED_MODELS, resolve_source
from phi3svc.config.model import Phi3Config
from phi3svc.embedded.training.corpus_entities import LABELS as ENTITY_LABELS
from phi3svc.embedded.training.corpus_sentiment import LABELS as SENTIMENT_LABELS
from phi3svc.text.tokenizer import Tokenizer

MAX_BYTES = 3_000_000
FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
TASKS = {
    "demo": "generation",
    "demo-sentiment": "sequence-classification",
    "demo-entities": "token-classification",
}


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_checkpoint_is_complete_and_small(name: str) -> None:
    folder = resolve_source(name).path
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_config_has_two_distinct_longrope_sets(name: str) -> None:
    config = Phi3Config.from_dir(resolve_source(name).path)
    original = config.original_max_position_embeddings
    assert config.task == TASKS[name]
    assert config.is_longrope
    assert config.rope.short_factor != config.rope.long_factor
    assert original <= 128
    assert config.max_position_embeddings >= 4 * original
    assert (config.rope_set(original), config.rope_set(original + 1)) == (0, 1)
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.sliding_window is None
    assert config.tie_word_embeddings == (name == "demo")


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_weights_are_bfloat16(name: str) -> None:
    with safe_open(resolve_source(name).path / "model.safetensors", "pt") as tensors:
        dtypes = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    assert dtypes == {"BF16"}


def test_labels_are_those_of_the_corpora() -> None:
    sentiment = Phi3Config.from_dir(resolve_source("demo-sentiment").path)
    entities = Phi3Config.from_dir(resolve_source("demo-entities").path)
    assert sentiment.labels == SENTIMENT_LABELS
    assert entities.labels == ENTITY_LABELS


def test_generator_stops_at_end_and_end_of_text() -> None:
    folder = resolve_source("demo").path
    tokenizer = Tokenizer.from_dir(folder)
    stops = [tokenizer.encode(text)[0] for text in ("<|endoftext|>", "<|end|>")]
    assert set(Phi3Config.from_dir(folder).eos_token_ids) == set(stops)


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_tokenizer_is_phi3_like(name: str) -> None:
    folder = resolve_source(name).path
    tokenizer = Tokenizer.from_dir(folder)
    assert tokenizer.vocab_size == Phi3Config.from_dir(folder).vocab_size
    for text in ("Hello, garden!", "  two  spaces", "caf\u00e9 \U0001f33b", "a\nb"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # Markers swallow the white space after them; every piece of text begins with a space mark.
    ids = tokenizer.encode("<|user|>\nHello<|end|>\n<|assistant|>\n")
    hello = tokenizer.encode("Hello")
    assert ids == [
        tokenizer.encode("<|user|>")[0],
        *hello,
        tokenizer.encode("<|end|>")[0],
        tokenizer.encode("<|assistant|>")[0],
    ]
    assert (tokenizer.token_text(hello[0]) or "").startswith("\u2581")


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_added_tokens_agree_between_the_tokenizer_files(name: str) -> None:
    folder = resolve_source(name).path
    definition = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {str(token.pop("id")): token for token in definition["added_tokens"]}
    assert config["added_tokens_decoder"] == added
    assert ("chat_template" in config) == (name == "demo")
