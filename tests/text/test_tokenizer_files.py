"""Tokenizers of the family's members, and files that disagree, against transformers.

Small vocabularies with the structure of each member: which tokens swallow the blanks behind them,
which are special, what is put before a text, and what the files beside tokenizer.json change.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from phi3svc.errors import ConfigError
from phi3svc.text.tokenizer import Tokenizer
from tests.text.conftest import CORPUS, byte_fallback_backend

# Of Phi-4's and Phi-4-mini's tokenizer.json.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PHI3_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|endoftext|>",
    "legacy": False,
    "model_max_length": 4096,
    "pad_token": "<|endoftext|>",
    "padding_side": "left",
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
PHI4_CONFIG = {
    "add_prefix_space": False,
    "bos_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|dummy_85|>",
    "tokenizer_class": "GPT2Tokenizer",
    "unk_token": "<|endoftext|>",
}
PHI4_MINI_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "GPT2Tokenizer",
    "unk_token": "<|endoftext|>",
}


def byte_level(pattern: str, markers: list[AddedToken | str]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(markers)
    return backend


def phi4() -> tokenizers.Tokenizer:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|dummy_85|>"]
    tokens = [AddedToken(name, lstrip=True, rstrip=True, normalized=False) for name in names]
    return byte_level(CL100K, list(tokens))


def phi4_mini() -> tokenizers.Tokenizer:
    roles = ("assistant", "end", "user", "system", "tool", "/tool", "tool_call", "/tool_call")
    tokens = [AddedToken(f"<|{role}|>", rstrip=True, normalized=False) for role in roles]
    return byte_level(O200K, ["<|endoftext|>", *tokens])


def begun_with_bos() -> tokenizers.Tokenizer:
    backend = byte_fallback_backend()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def write(
    path: Path, backend: tokenizers.Tokenizer, config: object = None, **others: object
) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and `others` by their stem."""
    backend.save(str(path / "tokenizer.json"))
    files = {"config": {"model_type": "phi3"}, "tokenizer_config": config} | others
    for stem, values in files.items():
        if values is not None:
            (path / f"{stem}.json").write_text(json.dumps(values))
    return path


TEXTS = [
    "Stop here. Stop there.\n\nThen  stop",
    " a leading blank, naïve 你好 👍🏽",
    "<|user|>\nHello!<|end|>\n<|assistant|>\nSure, I can.<|end|>\n",
    "<|system|>\n\t x <|end|>  \n <|user|> a<|end|><|assistant|>",
    "one</s>  two</s>\nthree <s> four <unk> <|endoftext|>\n five",
    "<|im_start|>user<|im_sep|> Hello <|im_end|>\n<|im_start|>assistant<|im_sep|><|dummy_85|>",
    "<|tool|>[{}]<|/tool|> \n<|tool_call|> x<|/tool_call|>",
    "HelloWORLD It's 12345 DON'T a/b//\n",
]


def check_equal(path: Path) -> None:
    """Ids and texts, with and without what the tokenizer puts around a text, as transformers'."""
    oracle, tokenizer = AutoTokenizer.from_pretrained(path), Tokenizer.from_dir(path)
    assert tokenizer.eos_token_id == oracle.eos_token_id
    assert tokenizer.bos_token_id == oracle.bos_token_id
    for text in TEXTS:
        for add_special in (True, False):
            ids = oracle(text, add_special_tokens=add_special).input_ids
            assert tokenizer.encode(text, add_special=add_special) == ids, text
        for skip in (True, False):
            expected = oracle.decode(ids, skip_special_tokens=skip)
            assert tokenizer.decode(ids, skip_special=skip) == expected, text


MEMBERS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], object]] = {
    "phi-3": (byte_fallback_backend, PHI3_CONFIG),
    "phi-3 that adds bos": (begun_with_bos, PHI3_CONFIG | {"add_bos_token": True}),
    "phi-3 told not to add bos": (begun_with_bos, PHI3_CONFIG),
    "phi-3 told to add bos and eos": (
        byte_fallback_backend,
        PHI3_CONFIG | {"add_bos_token": True, "add_eos_token": True},
    ),
    "phi-3 without settings": (byte_fallback_backend, None),
    "phi-3 without bos": (byte_fallback_backend, PHI3_CONFIG | {"bos_token": None}),
    "phi-4": (phi4, PHI4_CONFIG),
    "phi-4 at release": (phi4, PHI4_CONFIG | {"eos_token": "<|endoftext|>"}),
    "phi-4-mini": (phi4_mini, PHI4_MINI_CONFIG),
}


@pytest.mark.parametrize("member", MEMBERS)
def test_ids_and_texts_equal_those_of_transformers(member: str, tmp_path: Path) -> None:
    make, config = MEMBERS[member]
    check_equal(write(tmp_path, make(), config))


def test_the_published_vector_of_phi_3(tmp_path: Path) -> None:
    """Its shape: no token for the newline behind a marker, a blank before each piece of text."""
    tokenizer = Tokenizer.from_dir(write(tmp_path, byte_fallback_backend(), PHI3_CONFIG))
    ids = tokenizer.encode("<|user|>\nThe dog<|end|>\n<|assistant|>\nStop</s>\n<|endoftext|>\n")
    pieces = "".join(str(tokenizer.token_text(token_id)) for token_id in ids)
    assert pieces == "<|user|>▁The▁dog<|end|><|assistant|>▁Stop</s><|endoftext|>▁<0x0A>"


def added(content: str, **flags: bool) -> dict[str, object]:
    unset = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"content": content, **unset, **flags}


FILES: dict[str, dict[str, Any]] = {
    "flags that differ": {
        "tokenizer_config": {"added_tokens_decoder": {"3": added("<|user|>", special=True)}}
    },
    "blanks swallowed by the settings alone": {
        "tokenizer_config": {
            "added_tokens_decoder": {"3": added("<|endoftext|>", rstrip=True, special=True)}
        }
    },
    "a token more": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "9000": added("<|tool|>", rstrip=True, special=True),
                "9001": added("<|/tool|>", lstrip=True),
            }
        }
    },
    "a token more, in the old file": {"added_tokens": {"<|tool|>": 9000, "<|/tool|>": 9001}},
    "the old file beside the new settings": {
        "added_tokens": {"<|tool|>": 9000},
        "tokenizer_config": {"added_tokens_decoder": {}},
    },
    "an end that was no special token": {"tokenizer_config": {"eos_token": "</s>"}},
    "an end that is no token yet": {"tokenizer_config": {"eos_token": "<|tool|>"}},
    "tokens without a name": {
        "special_tokens_map": {"additional_special_tokens": ["</s>", "<|tool|>"]}
    },
    "tokens without a name, in the settings": {
        "tokenizer_config": {"additional_special_tokens": ["</s>", "<|tool|>"]}
    },
    "the old map goes before old settings": {
        "special_tokens_map": {"eos_token": "</s>", "bos_token": added("<|system|>", special=True)}
    },
    "the new settings go before the old map": {
        "special_tokens_map": {"eos_token": "</s>"},
        "tokenizer_config": {"added_tokens_decoder": {}},
    },
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_disagree_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    files = dict(FILES[name])
    config = PHI3_CONFIG | files.pop("tokenizer_config", {})
    check_equal(write(tmp_path, byte_fallback_backend(), config, **files))


@pytest.mark.parametrize(
    ("decoder", "fault"),
    [
        ([], "must be an object"),
        ({"x": added("<|a|>")}, "expected tokens by id, found 'x'"),
        ({"-1": added("<|a|>")}, "expected tokens by id"),
        ({"9" * 5000: added("<|a|>")}, "expected tokens by id"),
        ({"1": "<|a|>"}, "expected tokens by id"),
        ({"1": added("")}, "must be a text of 1 to 256 characters"),
        ({"1": added("x" * 300)}, "must be a text of 1 to 256 characters"),
        ({"1": added("x") | {"rstrip": 1}}, "rstrip is 1; expected true or false"),
    ],
    ids=[*"abcdefgh"],
)
def test_malformed_added_tokens_are_one_line(tmp_path: Path, decoder: object, fault: str) -> None:
    write(tmp_path, byte_fallback_backend(), PHI3_CONFIG | {"added_tokens_decoder": decoder})
    with pytest.raises(ConfigError, match=fault) as error:
        Tokenizer.from_dir(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 400


def test_a_malformed_old_file_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, byte_fallback_backend(), PHI3_CONFIG, added_tokens={"<|a|>": "1"})
    with pytest.raises(ConfigError, match=r"added_tokens\.json: <\|a\|> is '1'; expected an integ"):
        Tokenizer.from_dir(path)


def test_a_sentencepiece_model_alone_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ConfigError) as error:
        Tokenizer.from_dir(tmp_path)
    command = shlex.split(str(error.value).partition("make it with: ")[2])
    assert command[:2] == ["python", "-c"]
    assert f'p = "{tmp_path}"' in command[2]
    compile(command[2], "command", "exec")
