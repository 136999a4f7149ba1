"""Which tensors a checkpoint's safetensors files hold, and where: headers only, no weights.

A safetensors file is an 8-byte little-endian length, a JSON header of that many bytes, and the
data. Everything in it comes from outside, so it is held to the format's own rules before a byte is
used: every tensor's span matches its shape, and the spans tile the data without overlap or gap. The
safetensors library checks these too; this reader also bounds the JSON, names the tensor at fault,
and tells where a tensor lies, so that `model/weights.py` can read it without mapping the file.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phi3svc.config.conversion import transformers_command
from phi3svc.config.files import open_file
from phi3svc.config.json_file import Fields, parse_json_object, read_json_object
from phi3svc.errors import ConfigError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
BYTES_PER_ELEMENT = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOAT_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

MAX_HEADER_BYTES = 16 << 20
MAX_SHARDS = 4096
MAX_RANK = 8
MAX_DIM = 1 << 40


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `num_bytes` bytes at `offset` of `file`, row major; dtype as safetensors names
    it, "BF16" for instance."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def list_tensors(path: Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint in folder `path`, by name.

    As in transformers, a single model.safetensors goes before a sharded index. Raises ConfigError
    in one line: no safetensors, a shard that is absent, an index naming a file outside the folder,
    a tensor that is missing from its shard or in two shards, or a file that breaks the format.
    """
    index_file = _index_file(path)
    if index_file is None:
        return read_header(path / SINGLE_FILE)
    index = _read_index(index_file)
    tensors: dict[str, TensorInfo] = {}
    for file_name in sorted(set(index.values())):
        for name, tensor in read_header(path / file_name).items():
            if name in tensors:
                raise ConfigError(
                    f"{path}: tensor {reprlib.repr(name)} is in both {tensors[name].file.name} "
                    f"and {file_name}"
                )
            tensors[name] = tensor
    for name, file_name in index.items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise ConfigError(
                f"{path / INDEX_FILE}: tensor {reprlib.repr(name)} is not in {file_name}"
            )
    return tensors


def weight_files(path: Path) -> list[Path]:
    """The files that `list_tensors` reads, all of them there. ConfigError names one that is not."""
    index_file = _index_file(path)
    files = [path / SINGLE_FILE]
    if index_file is not None:
        files = [path / name for name in sorted(set(_read_index(index_file).values()))]
    for file in files:
        if not file.exists():
            raise ConfigError(f"{file}: no such file")
    return files


def first_float_dtype(path: Path) -> str:
    """The dtype of the first floating-point tensor: what a config without a dtype means."""
    for tensor in list_tensors(path).values():
        if tensor.dtype in FLOAT_DTYPES:
            return FLOAT_DTYPES[tensor.dtype]
    raise ConfigError(f"{path}: no tensor in {', '.join(FLOAT_DTYPES)}")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: its tensors in order, and its `__metadata__`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, object]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, in the order of its header."""
    with open_file(file) as stream:
        return header_of(stream, file).tensors


def header_of(stream: BinaryIO, file: Path) -> Header:
    """The header of `file`, which is open. Raises ConfigError in one line."""
    try:
        file_size = stream.seek(0, 2)
        stream.seek(0)
        header_len = int.from_bytes(stream.read(8), "little")
        if file_size < 8 or header_len > file_size - 8:
            raise ConfigError(
                f"{file}: truncated or not safetensors: header of {header_len} bytes in a "
                f"file of {file_size}"
            )
        if header_len > MAX_HEADER_BYTES:
            raise ConfigError(
                f"{file}: header of {header_len} bytes; expected at most {MAX_HEADER_BYTES}"
            )
        header = parse_json_object(stream.read(header_len), f"{file} header")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    metadata = header.pop("__metadata__", None)
    data_start = 8 + header_len
    tensors = {name: _tensor_info(name, entry, file, data_start) for name, entry in header.items()}
    _check_tiling(file, tensors, data_start, file_size)
    return Header(tensors, metadata if isinstance(metadata, dict) else {})


def _tensor_info(name: str, entry: object, file: Path, data_start: int) -> TensorInfo:
    where = f"{file}: tensor {reprlib.repr(name)}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} has no description")
    dtype = Fields(entry, where).choice("dtype", tuple(BYTES_PER_ELEMENT))
    shape = _integers(entry.get("shape"))
    if shape is None or len(shape) > MAX_RANK:
        Fields(entry, where).fail("shape", f"up to {MAX_RANK} sizes of at most {MAX_DIM}")
    offsets = _integers(entry.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        Fields(entry, where).fail("data_offsets", "[begin, end] with begin <= end")
    num_bytes = offsets[1] - offsets[0]
    expected = math.prod(shape) * BYTES_PER_ELEMENT[dtype]
    if num_bytes != expected:
        raise ConfigError(
            f"{where} spans {num_bytes} bytes; {dtype} {list(shape)} needs {expected}"
        )
    return TensorInfo(name, file, dtype, shape, data_start + offsets[0], num_bytes)


def _check_tiling(
    file: Path, tensors: dict[str, TensorInfo], data_start: int, file_size: int
) -> None:
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.num_bytes)):
        if tensor.offset != end:
            fault = "overlaps its neighbour" if tensor.offset < end else "leaves a gap before it"
            raise ConfigError(f"{file}: tensor {reprlib.repr(tensor.name)} {fault}")
        end += tensor.num_bytes
    if end != file_size:
        raise ConfigError(
            f"{file}: {file_size} bytes long, but its header describes {end}; truncated download?"
        )


def _index_file(path: Path) -> Path | None:
    """None where a single file holds all. ConfigError if there is neither."""
    if (path / SINGLE_FILE).exists():
        return None
    if not (path / INDEX_FILE).exists():
        raise ConfigError(_no_weights(path))
    return path / INDEX_FILE


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    if not all(type(item) is int and 0 <= item <= MAX_DIM for item in value):
        return None
    return tuple(value)


def _read_index(file: Path) -> dict[str, str]:
    weight_map = Fields(read_json_object(file, MAX_HEADER_BYTES), str(file)).object("weight_map")
    if not weight_map:
        raise ConfigError(f"{file}: weight_map is missing or empty")
    index: dict[str, str] = {}
    for name, file_name in weight_map.items():
        # A plain name keeps the index from reaching outside the checkpoint's folder.
        if (
            not isinstance(file_name, str)
            or not file_name.endswith(".safetensors")
            or not file_name.isprintable()
            or Path(file_name).name != file_name
            or "\\" in file_name
        ):
            raise ConfigError(
                f"{file}: tensor {reprlib.repr(name)} is said to be in {reprlib.repr(file_name)}; "
                "expected the plain name of a .safetensors file beside the index"
            )
        index[name] = file_name
    if len(set(index.values())) > MAX_SHARDS:
        raise ConfigError(f"{file}: more than {MAX_SHARDS} shards")
    return index


def _no_weights(path: Path) -> str:
    pickled = next((f.name for p in PICKLED for f in sorted(path.glob(p))), None)
    if pickled is None:
        return f"{path}: has neither {SINGLE_FILE} nor {INDEX_FILE}"
    command = transformers_command(
        path,
        "name = t.AutoConfig.from_pretrained(p).architectures[0]; "
        'getattr(t, name).from_pretrained(p, dtype="auto").save_pretrained(p)',
    )
    return (
        f"{path}: has only pickled weights ({pickled}), which are never loaded; convert them with: "
        f"{command}"
    )
