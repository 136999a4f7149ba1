"""Tokenizers against the library, and against malformed checkpoints."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phi3svc.errors import ConfigError
from phi3svc.text.tokenizer import Tokenizer
from tests.text.conftest import byte_fallback_backend, byte_level_backend


def save(path: Path, definition: dict[str, object], config: object = None) -> Path:
    (path / "tokenizer.json").write_text(json.dumps(definition))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def definition() -> dict[str, object]:
    loaded: dict[str, object] = json.loads(byte_fallback_backend().to_str())
    return loaded


def test_blanks_behind_chat_markers_leave_no_token(byte_fallback: Tokenizer) -> None:
    glued = byte_fallback.encode("<|user|>Stop here.<|end|><|assistant|>")
    assert byte_fallback.encode("<|user|>\nStop here.<|end|>\n<|assistant|>\n") == glued
    assert byte_fallback.decode(glued) == "Stop here."
    assert byte_fallback.decode(glued, skip_special=False).startswith("<|user|>")


def test_special_tokens_can_be_spelt_out(tokenizer: Tokenizer) -> None:
    text = "a <|endoftext|> b"
    marker = tokenizer.encode("<|endoftext|>")
    assert len(marker) == 1
    assert marker[0] in tokenizer.special_ids
    spelt = tokenizer.encode(text, parse_special=False)
    assert not tokenizer.special_ids & set(spelt)
    assert tokenizer.decode(spelt) == text
    assert marker[0] in tokenizer.encode(text)


def test_offsets_are_characters_and_mark_added_tokens(tmp_path: Path) -> None:
    backend = byte_level_backend()
    text = "你好 dog 👍🏽!"
    ids, offsets = Tokenizer(backend.to_str()).encode_with_offsets(text)
    assert ids == backend.encode(text).ids
    assert offsets == backend.encode(text).offsets
    assert "".join(text[span[0] : span[1]] for span in offsets[-1:] if span) == "!"

    from tokenizers.processors import TemplateProcessing

    marker = backend.token_to_id("<|im_start|>")
    backend.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", marker)]
    )
    wrapped = Tokenizer(backend.to_str())
    assert wrapped.encode_with_offsets(text) == ([marker, *ids], [None, *offsets])
    assert wrapped.encode(text) == ids
    assert wrapped.encode(text, add_special=True) == [marker, *ids]


def test_saved_truncation_and_padding_do_not_touch_requests() -> None:
    backend = byte_level_backend()
    ids = backend.encode("one two three").ids
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    assert Tokenizer(backend.to_str()).encode("one two three") == ids


def test_saved_dropout_does_not_make_ids_random() -> None:
    saved = definition()
    expected = Tokenizer(json.dumps(saved)).encode("The quick brown fox")
    assert isinstance(saved["model"], dict)
    saved["model"]["dropout"] = 0.9
    tokenizer = Tokenizer(json.dumps(saved))
    assert [tokenizer.encode("The quick brown fox") for _ in range(5)] == [expected] * 5
    assert tokenizer.encode("The quick brown fox", parse_special=False) == expected


def test_ids_without_a_token_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""
    assert tokenizer.token_text(tokenizer.vocab_size + 5) is None


def test_threads_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    def work(i: int) -> list[int]:
        return tokenizer.encode("a <|endoftext|> b", parse_special=i % 2 == 0)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(work, range(200)))
    assert {tuple(ids) for ids in results[::2]} == {tuple(work(0))}
    assert {tuple(ids) for ids in results[1::2]} == {tuple(work(1))}


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_long_texts_let_other_threads_run(byte_fallback: Tokenizer, work: str) -> None:
    """As a server's event loop is one."""
    text = "Stop here. " * 60_000
    argument = text if work == "encode" else byte_fallback.encode(text) * 8
    longest_pause = 0.0
    with ThreadPoolExecutor(1) as threads:
        start = last = time.monotonic()
        future = threads.submit(getattr(byte_fallback, work), argument)
        while not future.done():
            time.sleep(0.001)
            last, before = time.monotonic(), last
            longest_pause = max(longest_pause, last - before)
    assert longest_pause < 0.5 * (last - start)


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>"}])
def test_eos_comes_from_the_tokenizer_config(tmp_path: Path, eos: object) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    tokenizer = Tokenizer.from_dir(save(tmp_path, definition(), {"eos_token": eos}))
    assert tokenizer.eos_token_id == tokenizer.encode("</s>")[0]
    assert tokenizer.bos_token_id == tokenizer.encode("<s>")[0]


def test_a_checkpoint_may_have_no_tokenizer_config(tmp_path: Path) -> None:
    assert Tokenizer.from_dir(save(tmp_path, definition())).eos_token_id is None


BAD_DECODERS = [
    None,
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    {
        "type": "Sequence",
        "decoders": [
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 0, "stop": 1},
        ],
    },
]


@pytest.mark.parametrize("decoder", BAD_DECODERS)
def test_decoders_that_cannot_be_streamed_are_refused(tmp_path: Path, decoder: object) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: decoder [^\n]+$"):
        Tokenizer.from_dir(save(tmp_path, definition() | {"decoder": decoder}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'"x"', b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100_000],
)
def test_malformed_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        Tokenizer.from_dir(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_or_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Tokenizer.from_dir(tmp_path)
    monkeypatch.setattr("phi3svc.text.tokenizer.MAX_TOKENIZER_BYTES", 1000)
    with pytest.raises(ConfigError, match="larger than 1000 bytes"):
        Tokenizer.from_dir(save(tmp_path, definition()))


@pytest.mark.parametrize("token", [3, "", ["</s>"], {"content": 1}, "x" * 300])
def test_malformed_special_tokens_are_refused(tmp_path: Path, token: object) -> None:
    with pytest.raises(ConfigError, match="eos_token must be"):
        Tokenizer.from_dir(save(tmp_path, definition(), {"eos_token": token}))
