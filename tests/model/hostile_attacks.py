"""What a hostile checkpoint may hold: how to spoil a good one, and words of the error it gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.model.checkpoints import write_tokenizer

CONFIG = {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}
FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "model.safetensors",
)  # fmt: skip

Attack = Callable[[Path], object]


def write_good(path: Path) -> Path:
    """A checkpoint with nothing wrong that can be seen without loading its one tensor."""
    path.mkdir()
    write("config.json", json.dumps(CONFIG))(path)
    write_tokenizer(path)
    header({"x": f32([1], 0, 4)}, b"1234")(path)
    return path


def edit(name: str, **values: Any) -> Attack:
    """Put `values` into the JSON file `name`."""

    def apply(path: Path) -> None:
        file = path / name
        there = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(there | values))

    return apply


def write(name: str, content: bytes | str) -> Attack:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: (path / name).write_bytes(data)


def replace(name: str, make: Callable[[Path], object]) -> Attack:
    """Let `make` put something else in the place of file `name`."""

    def apply(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        make(path / name)

    return apply


def header(
    tensors: dict[str, object] | bytes, data: bytes = b"", length: int | None = None
) -> Attack:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    size = len(text) if length is None else length
    return write("model.safetensors", size.to_bytes(8, "little") + text + data)


def f32(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sparse(name: str, size: int, start: bytes = b"") -> Attack:
    def apply(path: Path) -> None:
        (path / name).write_bytes(start)
        os.truncate(path / name, size)

    return apply


def index(weight_map: object) -> Attack:
    def apply(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return apply


def shards(make: Callable[[Path], object]) -> Attack:
    def apply(path: Path) -> None:
        index({"x": "model-1.safetensors"})(path)
        make(path / "model-1.safetensors")

    return apply


def tokenizer(**parts: Any) -> Attack:
    return edit("tokenizer.json", **parts)


def split(pattern: str) -> dict[str, object]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def doubling(times: int, kind: str = "normalizers") -> dict[str, object]:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", kind: [step] * times}


def added(token_id: int, content: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": True, **flags}


FACTORS = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def rope(**values: object) -> Attack:
    return edit("config.json", rope_scaling=FACTORS | values)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda file: file.symlink_to("/dev/zero"),
}
MANY = {f"t{i}": f32([0], 0, 0) for i in range(200_000)}
TWICE = json.dumps(MANY)[:-1] + ', "t199999": ' + json.dumps(f32([0], 0, 0)) + "}"

ATTACKS: dict[str, tuple[Attack, str]] = {
    "header as long as the numbers go": (header(b"{}", length=(1 << 64) - 1), "truncated"),
    "header longer than the file": (header(b"{}", length=3), "truncated"),
    "header of 17 MiB": (
        sparse("model.safetensors", 20 << 20, (17 << 20).to_bytes(8, "little")),
        "expected at most",
    ),
    "header nested deeply": (header(b'{"x":' * 100_000), "nested too deeply"),
    "header of one long number": (header(b'{"x":' + b"9" * 1_000_000 + b"}"), "not valid JSON"),
    "product of sizes that wraps to 0": (
        header({"x": f32([1 << 32, 1 << 32], 0, 0)}),
        "spans 0 bytes",
    ),
    "product of sizes beyond all bounds": (
        header({"x": f32([1 << 40] * 8, 0, 4)}),
        "spans 4 bytes",
    ),
    "a size beyond 64 bits": (header({"x": f32([1 << 70], 0, 4)}), "shape is"),
    "sizes without end": (header({"x": f32([1] * 1_000_000, 0, 4)}), "up to 8 sizes"),
    "sizes that are no integers": (header({"x": f32([1.5], 0, 4)}), "shape is"),
    "sizes that are flags": (header({"x": f32([True], 0, 4)}, b"1234"), "shape is"),
    "a negative size": (header({"x": f32([-1, -1], 0, 4)}, b"1234"), "shape is"),
    "offsets that are NaN": (header({"x": f32([1], float("nan"), 4)}, b"1234"), "data_offsets is"),
    "overlap": (header({"x": f32([2], 0, 8), "y": f32([2], 4, 12)}, b"1" * 12), "overlaps"),
    "the same bytes twice": (
        header({"x": f32([1], 0, 4), "y": f32([1], 0, 4)}, b"1234"),
        "overlaps",
    ),
    "gap": (header({"x": f32([1], 0, 4), "y": f32([1], 8, 12)}, b"1" * 12), "leaves a gap"),
    "an unknown dtype": (header({"x": f32([1], 0, 4, "F31")}, b"1234"), "dtype is 'F31'"),
    "a dtype that is a list": (header({"x": f32([1], 0, 4) | {"dtype": ["F32"]}}), "dtype is"),
    "a tensor that is none": (header({"x": None}), "has no description"),
    "a name twice among many": (header(TWICE.encode()), "'t199999' is given twice"),
    "a name that breaks lines": (header({"x\ny" * 100_000: f32([1], 4, 0)}), "data_offsets is"),
    "index that names itself": (
        index({"x": "model.safetensors.index.json"}),
        "plain name of a .safetensors file",
    ),
    "index that leaves the folder": (
        index({"x": "../../etc/passwd.safetensors"}),
        "plain name of a .safetensors file",
    ),
    "index of 5000 shards": (
        index({f"x{i}": f"model-{i}.safetensors" for i in range(5000)}),
        "more than 4096 shards",
    ),
    "index nested deeply": (
        shards(lambda file: (file.parent / "model.safetensors.index.json").write_text("[" * 10**5)),
        "nested too deeply",
    ),
    "a shard that is a pipe": (shards(os.mkfifo), "not a regular file"),
    "a shard that is a device": (shards(lambda f: f.symlink_to("/dev/zero")), "not a regular file"),
    "a shard that links to itself": (shards(lambda file: file.symlink_to(file.name)), "symbolic"),
    "config without end": (sparse("config.json", 1 << 40), "larger than"),
    "config nested deeply": (write("config.json", "[" * 1_000_000), "nested too deeply"),
    "config of one long number": (
        write("config.json", '{"vocab_size": ' + "9" * 1_000_000 + "}"),
        "not valid JSON",
    ),
    "a size that is infinite": (
        write("config.json", json.dumps(CONFIG).replace("64", "1e999")),
        "hidden_size is inf",
    ),
    "a size that is no number": (
        edit("config.json", hidden_size=float("nan")),
        "hidden_size is nan",
    ),
    "an epsilon that is no number": (
        edit("config.json", rms_norm_eps=float("nan")),
        "rms_norm_eps is nan",
    ),
    "layers without end": (edit("config.json", num_hidden_layers=1 << 62), "num_hidden_layers is"),
    "a model beyond all machines": (
        edit("config.json", hidden_size=1 << 16, num_attention_heads=256, num_hidden_layers=999),
        "parameters; expected at most",
    ),
    "a million labels": (
        edit("config.json", id2label={str(i): "x" for i in range(200_000)}),
        "id2label is",
    ),
    "a label of a megabyte": (edit("config.json", id2label={"0": "x" * 10**6}), "id2label.0 is"),
    "labels that skip": (edit("config.json", id2label={"0": "a", "999999999": "b"}), "id2label is"),
    "factors that are a text": (rope(long_factor="1" * 8), "long_factor is"),
    "factors that are texts": (rope(long_factor=["1"] * 8), "long_factor[0] is"),
    "factors that are lists": (rope(long_factor=[[1.0]] * 8), "long_factor[0] is"),
    "a factor that is no number": (rope(short_factor=[float("nan")] * 8), "short_factor[0] is nan"),
    "a factor of zero": (rope(short_factor=[0] * 8), "short_factor[0] is 0"),
    "a factor that is huge": (rope(short_factor=[10**400] * 8), "short_factor[0] is"),
    "100 000 factors": (rope(long_factor=[1.0] * 100_000), "long_factor has 100000 numbers"),
    "ends without end": (edit("config.json", eos_token_id=list(range(100_000))), "at most 64 ids"),
    "generation settings that are no numbers": (
        edit("generation_config.json", temperature=float("nan")),
        "temperature is nan",
    ),
    "tokenizer without end": (sparse("tokenizer.json", 1 << 40), "larger than"),
    "tokenizer nested deeply": (write("tokenizer.json", "[" * 10**6), "tokenizer.json: "),
    "vocabulary nested deeply": (
        write("tokenizer.json", '{"model": ' + "[" * 10**6 + "]" * 10**6 + "}"),
        "tokenizer.json: ",
    ),
    "a normalizer that doubles": (tokenizer(normalizer=doubling(20)), "32 times as long"),
    "a normalizer that doubles, without its type": (
        tokenizer(normalizer={"normalizers": doubling(20)["normalizers"]}),
        "32 times as long",
    ),
    "a normalizer that puts a book before": (
        tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 10**6}),
        "32 times as long",
    ),
    "a normalizer that fills gaps": (
        tokenizer(
            normalizer={"type": "Replace", "pattern": {"Regex": "b*"}, "content": "a" * 10**6}
        ),
        "32 times as long",
    ),
    "a decoder that doubles": (tokenizer(decoder=doubling(20, "decoders")), "32 times as long"),
    "a normalizer of many steps": (
        tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "Nmt"}] * 100_000}),
        "its normalizer has more than 32 steps",
    ),
    "a pre-tokenizer of many steps, nested": (
        tokenizer(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Sequence", "pretokenizers": [split("a")] * 9}] * 9,
            }
        ),
        "its pre_tokenizer has more than 32 steps",
    ),
    "a model that takes the square of a word's length": (
        tokenizer(
            normalizer=None,
            model={
                "type": "WordPiece",
                "unk_token": "a",
                "continuing_subword_prefix": "",
                "max_input_chars_per_word": 10**9,
                "vocab": {"a": 0, "b": 1, " ": 2, "\n": 3},
            },
        ),
        "its model is WordPiece; expected BPE or WordLevel",
    ),
    "a post-processor that adds without end": (
        tokenizer(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 100_000,
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
            }
        ),
        "adds more than 64 tokens",
    ),
    "added tokens of many megabytes": (
        tokenizer(added_tokens=[added(300 + i, f"{i}" + "y" * 10**6) for i in range(16)]),
        "characters of added tokens",
    ),
    "200 000 added tokens": (
        tokenizer(added_tokens=[added(300 + i, f"<|token-{i}|>") for i in range(200_000)]),
        "characters of added tokens",
    ),
    "a token of a megabyte": (
        tokenizer(model={"type": "BPE", "vocab": {"a": 0, "b" * 10**6: 1}, "merges": []}),
        "a token of more than",
    ),
    "a pattern nested deeply": (
        tokenizer(pre_tokenizer=split("(" * 10**5 + ")" * 10**5)),
        "parse depth limit",
    ),
    "settings with 100 000 added tokens": (
        edit(
            "tokenizer_config.json",
            added_tokens_decoder={str(i): {"content": f"t{i}"} for i in range(70_000)},
        ),
        "more than 65536 added tokens",
    ),
    "a template of half a character": (
        edit("tokenizer_config.json", chat_template="\ud800"),
        "surrogates not allowed",
    ),
    "an added token of half a character": (
        edit("tokenizer_config.json", added_tokens_decoder={"5": {"content": "\ud800"}}),
        "surrogates not allowed",
    ),
    "a template without end": (sparse("chat_template.jinja", 1 << 40), "larger than"),
    **{
        f"{name} that is a {kind}": (replace(name, make), "not a regular file")
        for name in FILES
        for kind, make in NO_FILES.items()
    },
}

# Which a request comes upon.
LATE_ATTACKS: dict[str, tuple[Attack, str]] = {
    "a pattern that backtracks for ever": (
        tokenizer(pre_tokenizer=split("(a+)+$")),
        "the model's tokenizer fails: Onig: Regex search error: retry-limit",
    ),
    "a template that loops": (
        write("chat_template.jinja", "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3),
        "too much work",
    ),
    "a template that recurses": (
        write("chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        "chat template refuses",
    ),
    "a template that fills memory": (
        write("chat_template.jinja", "{{ 'x' * 10 ** 10 }}"),
        "too much work",
    ),
}
