"""Our pipelines beside transformers', on one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from phi3svc.api.pipeline import pipeline
from tests.text.conftest import byte_fallback_backend, byte_level_backend

# Of tokenizers with special tokens that the texts and settings of these tests need.
END_OF_TEXT = "<|endoftext|>"


def ours_and_theirs(task: str, path: Path, **settings: Any) -> tuple[Any, Any]:
    """The two pipelines, both in the checkpoint's dtype on the CPU."""
    theirs = transformers.pipeline(task, model=str(path), device="cpu", **settings)
    return pipeline(task, str(path), **settings), theirs


def assert_same(ours: Any, theirs: Any) -> None:
    """Same containers, keys in the same order, and values; scores within 1e-5, as plain floats."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert_same(ours[name], value)
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs), (ours, theirs)
        for mine, value in zip(ours, theirs, strict=True):
            assert_same(mine, value)
    elif isinstance(theirs, (float, np.floating)):
        assert type(ours) is float
        assert ours == pytest.approx(float(theirs), abs=1e-5)
    else:
        assert (type(ours), ours) == (type(theirs), theirs)


def with_bos_backend() -> tokenizers.Tokenizer:
    """One that puts a token before every text."""
    backend = byte_fallback_backend()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def word_backend() -> tokenizers.Tokenizer:
    """Words, and one unknown token for most of them."""
    words = ["<unk>", "The", "fox", "and", "dog", ",", ".", END_OF_TEXT]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken("<unk>"), AddedToken(END_OF_TEXT)])
    return backend


BACKENDS = {
    "byte-level": byte_level_backend,
    "byte-fallback": byte_fallback_backend,
    "with-bos": with_bos_backend,
    "words": word_backend,
}
# Vocabularies of all of them fit.
VOCAB_SIZE = 512


def write_tokenizer(path: Path, name: str, **settings: Any) -> Path:
    """Give the checkpoint in `path` one of `BACKENDS`. settings: of tokenizer_config.json."""
    BACKENDS[name]().save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": "<unk>" if name == "words" else None,
        **settings,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path
