"""Phi-3-small's vocabulary file against tiktoken itself, and against malformed files."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from phi3svc.config.phi3small_tokens import DUMMY_TOKEN_IDS, NUM_RANKS, SPECIAL_TOKENS
from phi3svc.errors import ConfigError
from phi3svc.text import tiktoken as tiktoken_files
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.decoders import BYTE_ALPHABET
from phi3svc.text.detokenizer import Detokenizer
from phi3svc.text.tokenizer import Tokenizer
from tests.text.conftest import CORPUS

FILE_NAME = "cl100k_base.tiktoken"

# cl100k_base's, from tiktoken's openai_public.py.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

TRICKY = [
    "",
    "I'll say we'VE don't 'Tis it's o'clock 'sſ ’s",
    "1234567 12 3,141.59 ٣٤٥ ⅷ x1y22z333",
    "  two  blanks\t\ttabs \n\n\n newlines\r\n \u00a0\u2003\u3000\x85 end   ",
    "naïve café Ünïcödé 你好，世界 здравствуй мир नमस्ते ﷽",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪 \u200d \ufffd \U0010ffff \0 \x7f",
    "def f(x):\n    return {'a': x ** 2}  # ok!!!???\n",
    "aaaaaaaaaabababababab" * 3,
    "<|user|>\nHi<|end|>\n<|assistant|>\n <|endoftext|><|dummy_id_1|><|dummy_id_11|><|dummy_id_2|>",
    "<|us er|> <|end| > <|dummy_id_87|>",
]


def write_ranks(path: Path, ranks: dict[bytes, int], name: str = FILE_NAME) -> Path:
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    (path / name).write_bytes(b"".join(lines))
    return path


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """A small vocabulary, learned here. Its single bytes do not come in order."""
    learner = Backend(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator(
        [*CORPUS, *TRICKY],
        trainers.BpeTrainer(
            vocab_size=500,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    byte_of = {ord(char): byte for byte, char in BYTE_ALPHABET.items()}
    vocab = learner.get_vocab()
    return {token.translate(byte_of).encode("latin-1"): vocab[token] for token in vocab}


@pytest.fixture(scope="module")
def oracle(ranks: dict[bytes, int]) -> tiktoken.Encoding:
    shift = len(ranks) - NUM_RANKS
    special = {token: id + shift for token, id in SPECIAL_TOKENS.items()}
    return tiktoken.Encoding(
        "phi3small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
    )


@pytest.fixture(scope="module")
def tokenizer(ranks: dict[bytes, int], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_dir(write_ranks(tmp_path_factory.mktemp("small"), ranks))


def check_equal(tokenizer: Tokenizer, oracle: tiktoken.Encoding, text: str) -> None:
    ids = oracle.encode(text, allowed_special="all")
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, add_special=True) == ids
    assert tokenizer.decode(ids, skip_special=False) == text


@pytest.mark.parametrize("text", TRICKY)
def test_ids_and_texts_equal_those_of_tiktoken(
    tokenizer: Tokenizer, oracle: tiktoken.Encoding, text: str
) -> None:
    check_equal(tokenizer, oracle, text)


PIECES = st.sampled_from(
    ["'s", "'LL", "don't", " ", "\n", "\r\n", "\t", "  x", "12345", "<|end|>", "\u00a0", "ab", "é"]
)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=20).map("".join)))
def test_ids_equal_those_of_tiktoken_on_any_text(
    tokenizer: Tokenizer, oracle: tiktoken.Encoding, text: str
) -> None:
    check_equal(tokenizer, oracle, text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_vocabulary_merges_as_tiktoken_merges(data: st.DataObject) -> None:
    """Also where a token can be made in several ways, or has a lower rank than its parts."""
    words = st.text("ab", min_size=1, max_size=6).map(str.encode)
    longer = data.draw(st.lists(words.filter(lambda w: len(w) > 1), unique=True, max_size=12))
    ranks = {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *longer])}
    oracle = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    tokenizer = Tokenizer(tiktoken_files.tiktoken_to_json(b"".join(lines), FILE_NAME))
    for text in data.draw(st.lists(st.text("ab", max_size=14), min_size=5, max_size=10)):
        assert tokenizer.encode(text) == oracle.encode(text)


def test_special_tokens_are_literal_on_request(
    tokenizer: Tokenizer, oracle: tiktoken.Encoding
) -> None:
    text = "a <|end|>\n<|user|> b"
    ids = tokenizer.encode(text, parse_special=False)
    assert ids == oracle.encode_ordinary(text)
    assert tokenizer.decode(ids) == text


def test_what_is_skipped_begins_with_the_end_of_text(
    tokenizer: Tokenizer, ranks: dict[bytes, int]
) -> None:
    """As in the original, whose rule is that ids from there on are special: one dummy is not."""
    first = tokenizer.encode("<|endoftext|>")[0]
    assert first == len(ranks) + 1
    assert tokenizer.special_ids == set(range(first, first + 95))
    ids = tokenizer.encode("<|user|>\nHi<|end|><|dummy_id_2|><|dummy_id_86|>")
    assert tokenizer.decode(ids) == "\nHi<|dummy_id_2|>"
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == first


@pytest.mark.parametrize("text", TRICKY)
def test_streamed_text_never_splits_a_character(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode(text)
    pieces = [detokenizer.push([token_id]).text for token_id in ids]
    assert "".join(pieces) + detokenizer.finish() == tokenizer.decode(ids)
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_the_full_vocabulary_has_the_ids_of_phi_3_small() -> None:
    tokens = [bytes([b]) for b in range(256)]
    tokens += [b"%05x" % i for i in range(NUM_RANKS - len(tokens))]
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    tokenizer = Tokenizer(tiktoken_files.tiktoken_to_json(b"".join(lines), FILE_NAME))
    assert tokenizer.vocab_size == 100352
    markers = "<|endoftext|><|system|><|user|><|assistant|><|end|><|endofprompt|>"
    assert tokenizer.encode(markers) == [100257, 100261, 100262, 100263, 100266, 100276]
    assert tokenizer.encode("<|dummy_id_2|><|dummy_id_0|><|dummy_id_3|><|dummy_id_12|>") == [
        100256, 100264, 100267, 100277,
    ]  # fmt: skip
    assert len(DUMMY_TOKEN_IDS) == 91
    assert set(range(NUM_RANKS, 100352)) - set(DUMMY_TOKEN_IDS) == {
        100257, 100261, 100262, 100263, 100266,
    }  # fmt: skip


def test_tokenizer_json_decides_where_both_are_there(
    tokenizer: Tokenizer, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    write_ranks(tmp_path, ranks)
    definition = json.loads(tokenizer._backend.to_str())
    definition["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    assert len(Tokenizer.from_dir(tmp_path).encode("<|end|>")) > 1
    (tmp_path / "tokenizer.json").unlink()
    assert len(Tokenizer.from_dir(tmp_path).encode("<|end|>")) == 1
    write_ranks(tmp_path, ranks, "other.tiktoken")
    with pytest.raises(ConfigError, match=r"both cl100k_base\.tiktoken and other\.tiktoken"):
        Tokenizer.from_dir(tmp_path)


def test_the_template_prints_the_tokens_the_file_does_not_name(
    ranks: dict[bytes, int], tmp_path: Path
) -> None:
    write_ranks(tmp_path, ranks)
    config = {"chat_template": "{{ bos_token }}|{{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    messages = [{"role": "user", "content": "x"}]
    assert ChatTemplate.from_dir(tmp_path).render(messages) == "<|endoftext|>|<|endoftext|>"


BYTES = b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "byte 0x00 has no token"),
        (BYTES.replace(b"YQ== 97\n", b"") + b"YQ== 256\n", "rank 98 comes where a lower is absent"),
        (BYTES.replace(b"YQ==", b"YWI="), "byte 0x61 has no token"),
        (BYTES + b"YQ== 256\n", r"line 257: token b'a' is given twice"),
        (BYTES + b"YWI= 97\n", "rank 97 is given twice"),
        (BYTES + b"YWI= 258\n", "rank 258 comes where a lower is absent"),
        (BYTES + b"YWI=\n", "line 257: expected a rank"),
        (BYTES + b"YWI= -1\n", "line 257: expected a rank"),
        (BYTES + b"YWI= 1e3\n", "line 257: expected a rank"),
        (BYTES + b"YWI= " + b"9" * 5000 + b"\n", "line 257: expected a rank"),
        (BYTES + b"YWI 256\n", "line 257: expected 1 to 256 bytes in base64"),
        (BYTES + b"\xff\xfe 256\n", "line 257: expected 1 to 256 bytes in base64"),
        (BYTES + b" 256\n", "line 257: expected 1 to 256 bytes in base64"),
        (BYTES + base64.b64encode(b"x" * 257) + b" 256\n", "line 257: expected 1 to 256 bytes"),
        (b"\0" * 10_000, "line 1: expected 1 to 256 bytes"),
    ],
)
def test_malformed_files_are_one_line(tmp_path: Path, data: bytes, fault: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(ConfigError, match=fault) as error:
        Tokenizer.from_dir(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_size_and_merges_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [b"a" * n for n in range(2, 200)]
    data = BYTES + b"".join(
        base64.b64encode(run) + b" %d\n" % (256 + i) for i, run in enumerate(runs)
    )
    (tmp_path / FILE_NAME).write_bytes(data)
    Tokenizer.from_dir(tmp_path)
    monkeypatch.setattr(tiktoken_files, "MAX_SPELT_CHARS", 100_000)
    with pytest.raises(ConfigError, match="too many pairs"):
        Tokenizer.from_dir(tmp_path)
    os.truncate(tmp_path / FILE_NAME, tiktoken_files.MAX_TIKTOKEN_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than"):
        Tokenizer.from_dir(tmp_path)
