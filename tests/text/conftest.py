"""Two small tokenizers of the family's two kinds, trained here."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from phi3svc.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Grüße aus Köln: naïve café, 你好世界, здравствуй мир, 👍🏽 and 👨‍👩‍👧!",
    "Stop here. Stop there.\n\nThen stop, and start again: one, two, three.",
] * 4


def byte_fallback_backend() -> tokenizers.Tokenizer:
    """As Phi-3-mini's: `▁` for a blank, bytes of characters outside the vocabulary."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=160, limit_alphabet=40, show_progress=False)
    learner.train_from_iterator(CORPUS, trainer)
    learned = sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)
    pieces = ["<unk>", "<s>", "</s>", *byte_tokens, *(p for p in learned if p.isprintable())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces[259:]
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>"])
    backend.add_tokens([AddedToken("</s>", special=False, normalized=False, rstrip=True)])
    names = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    backend.add_special_tokens(
        [AddedToken(name, rstrip=name != "<|endoftext|>", normalized=False) for name in names]
    )
    return backend


def byte_level_backend() -> tokenizers.Tokenizer:
    """As Phi-4's: every byte is a character of the vocabulary."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"])
    backend.add_tokens(["naïve 你"])  # not special, and spelt with characters of no byte
    return backend


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    return Tokenizer(byte_fallback_backend().to_str(), {"eos_token": "<|endoftext|>"})


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return Tokenizer(byte_level_backend().to_str(), {"eos_token": "<|im_end|>"})


@pytest.fixture(scope="session", params=["byte_fallback", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of the two."""
    fixture: Tokenizer = request.getfixturevalue(request.param)
    return fixture
