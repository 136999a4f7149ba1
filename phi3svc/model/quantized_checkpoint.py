"""Writes a quantized checkpoint: a folder like the one it comes from, with its weights packed.

Its config.json says so (`config/quantization.py`), its weights are one file of
`model/packed_format.py`, and what decides tokens and settings is copied as it is.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from phi3svc.config.files import read_file
from phi3svc.config.hub import HUB_FILES
from phi3svc.config.json_file import read_json_object
from phi3svc.config.quantization import Quantization
from phi3svc.config.tensors import SINGLE_FILE
from phi3svc.errors import ConfigError, Phi3Error
from phi3svc.model.loader import pack_checkpoint
from phi3svc.model.packing import PackedWeight
from phi3svc.model.weight_source import dtype_of
from phi3svc.model.weights import Progress

CONFIG_FILE = "config.json"
MAX_SETTINGS_BYTES = 256 << 20
"""Of one of the files that are copied; a tokenizer.json may have tens of MiB."""


@dataclass(frozen=True)
class QuantizedWeight:
    """What became of one linear weight.

    num_bytes: with its scales. row_error, worst_row_error: RMS and maximum, over its rows, of a
    row's RMS error by its mean |weight|; 0 where it kept its dtype. refused: what it would have
    been in fewer bits, worst row by format.
    """

    name: str
    format: str
    num_weights: int
    num_bytes: int
    row_error: float
    worst_row_error: float
    refused: Mapping[str, float]


def check_new(out: Path) -> None:
    """Raises ConfigError unless `out` is a folder that can be made, or is empty."""
    if os.path.lexists(out) and (not out.is_dir() or out.is_symlink() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; give a folder that is new or empty")
    # What is there already is replaced.
    if out.exists() and out.samefile("."):  # which would leave whoever is in it
        raise ConfigError(f"{out}: is the working directory; give another one")
    if out.is_mount():
        raise ConfigError(f"{out}: is where a disk is mounted; give a folder in it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: no such folder: {out.parent}")


def write_quantized(
    source: Path,
    out: Path,
    quantization: Quantization,
    progress: Progress,
    on_weight: Callable[[QuantizedWeight], None],
) -> None:
    """Quantize the checkpoint in folder `source` into the folder `out`, new or empty.

    It is there as a whole or not at all: it is written beside `out`, and brought to the disk before
    it gets its name. on_weight: told of every linear weight. Raises ConfigError in one line for
    what cannot be read or overwritten, and Phi3Error where the disk is full.
    """
    config = read_json_object(source / CONFIG_FILE)
    settings = _settings(source)
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype_of(quantization.format)).removeprefix("torch.")
    config["quantization_config"] = quantization.to_json()
    try:
        with _new_folder(out) as folder:
            for file in settings:
                (folder / file.name).write_bytes(read_file(file, MAX_SETTINGS_BYTES))
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
            with (folder / SINGLE_FILE).open("x+b", buffering=0) as stream:
                pack_checkpoint(
                    source,
                    quantization.name,
                    stream.fileno(),
                    progress,
                    lambda packed: on_weight(_describe(packed)),
                )
    except OSError as error:
        raise Phi3Error(f"{out}: {error.strerror or error}; nothing was written") from None


def _describe(weight: PackedWeight) -> QuantizedWeight:
    packed, errors = weight.packed, weight.row_errors.get(weight.packed.format)
    return QuantizedWeight(
        name=weight.name,
        format=packed.format,
        num_weights=packed.out_features * packed.in_features,
        num_bytes=packed.data.nbytes,
        row_error=float(errors.square().mean().sqrt()) if errors is not None else 0.0,
        worst_row_error=float(errors.max()) if errors is not None else 0.0,
        refused={f: float(e.max()) for f, e in weight.row_errors.items() if f != packed.format},
    )


def _settings(source: Path) -> list[Path]:
    """The files to be copied."""
    try:
        files = sorted(file for file in source.iterdir() if file.is_file())
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from None
    return [
        file
        for file in files
        if file.name != CONFIG_FILE and any(fnmatch.fnmatchcase(file.name, p) for p in HUB_FILES)
    ]


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to be filled, which then becomes `out`, or is removed if that fails."""
    check_new(out)
    folder = out.parent / f".{out.name}.{os.getpid()}.partial"
    folder.mkdir()
    try:
        yield folder
        for file in (*folder.iterdir(), folder):
            _sync(file)
        folder.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
