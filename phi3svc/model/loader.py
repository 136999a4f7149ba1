"""From a checkpoint's folder, or another source of weights, to a network that runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from phi3svc import ops
from phi3svc.config.checkpoint import fingerprint
from phi3svc.config.files import open_file
from phi3svc.config.model import BYTES_PER_ELEMENT, Phi3Config
from phi3svc.config.quantization import FLOAT8, SCHEME_NAMES, Quantization, check_dtype
from phi3svc.config.tensors import SINGLE_FILE, weight_files
from phi3svc.errors import ConfigError
from phi3svc.model import phi3_weights, phi3small_weights
from phi3svc.model.network import Network
from phi3svc.model.packed_cache import PackedCache
from phi3svc.model.packed_format import VERSION
from phi3svc.model.packed_size import MeasuringSource
from phi3svc.model.packed_source import PackedSource
from phi3svc.model.packed_writer import PackedFileWriter
from phi3svc.model.packing import PackedWeight, PackingSource
from phi3svc.model.phi3 import Phi3Network
from phi3svc.model.phi3small import Phi3SmallNetwork
from phi3svc.model.quantization import POLICY_VERSION
from phi3svc.model.weight_source import WeightSource
from phi3svc.model.weights import Progress, WeightReader

logger = logging.getLogger(__name__)

MIN_CACHED_BYTES = 64 << 20
"""Of a packed file; a smaller one is packed before anyone notices."""


def load_network(
    path: Path,
    dtype: str = "auto",
    progress: Progress | None = None,
    cache: PackedCache | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """Load the checkpoint in folder `path`.

    dtype: "float32", "bfloat16", "int8", "int4" or one of its formats ("int4-g128"), these on a CPU
    only, or "fp8" on CUDA only; "auto" for the checkpoint's. device: of `find_device`. One tensor
    at a time is read, converted and packed, the head's before those of layers, so the peak is the
    packed weights and a layer's largest tensor, once as it was read and once as converted or
    reordered. cache: where packed weights are kept, but for CUDA; they are mapped and used as they
    lie there, as are those of a quantized checkpoint. Raises ConfigError in one line; a cache that
    does not work is a warning, and the weights are packed in memory.
    """
    config = Phi3Config.from_dir(path)
    format = weight_format(config, dtype, str(path), device)
    if config.quantization is not None:
        file = path / SINGLE_FILE
        with open_file(file) as stream:
            return _map_network(config, format, stream, file, progress)
    reader = _open_reader(path, config, progress)
    if ops.backend(device) == "cuda":
        return build_network(config, PackingSource(reader, format, device=device))
    if cache is not None and packed_file_bytes(config, reader, format) >= MIN_CACHED_BYTES:
        try:
            return _load_cached(path, config, format, cache, reader, progress)
        except ConnectionError:  # whoever is told of the progress is gone
            raise
        except OSError as error:
            reason = error.strerror or error
            logger.warning("packed weights are not cached in %s: %s", cache.folder, reason)
        reader = _open_reader(path, config, progress)
    return build_network(config, PackingSource(reader, format))


def weight_format(
    config: Phi3Config, dtype: str, where: str, device: torch.device | str = "cpu"
) -> str:
    """The format of linear weights, or scheme, that `dtype` stands for. Raises ConfigError."""
    is_cuda = ops.backend(device) == "cuda"
    if config.quantization is not None:
        if is_cuda:
            raise ConfigError(
                f"{where}: is quantized to {config.quantization.name}, which only a CPU computes "
                "with; use the checkpoint that it was made from"
            )
        check_dtype(dtype, config.quantization, where)
        return config.quantization.name
    if dtype == "auto":
        return config.dtype
    quantization = Quantization.of(dtype)
    if quantization is not None:
        if is_cuda:
            raise ConfigError(f"dtype={dtype!r}: is for a CPU; on {device} use fp8 or bfloat16")
        return quantization.name
    if dtype == FLOAT8:
        if not is_cuda:
            raise ConfigError(f"dtype={dtype!r}: is for CUDA devices; on a CPU use int8")
        return dtype
    if dtype not in BYTES_PER_ELEMENT:
        names = ("auto", *BYTES_PER_ELEMENT, *SCHEME_NAMES, FLOAT8)
        raise ConfigError(f"dtype={dtype!r}: must be one of {', '.join(names)}")
    return dtype


def pack_checkpoint(
    path: Path,
    format: str,
    descriptor: int,
    progress: Progress | None = None,
    on_packed: Callable[[PackedWeight], None] | None = None,
) -> None:
    """Write the checkpoint in folder `path` into an empty file as `model/packed_format.py` says.

    format: of the linear weights; on_packed: told of each of them. Raises ConfigError in one line,
    and OSError where the disk is full.
    """
    config = Phi3Config.from_dir(path)
    if config.quantization is not None:
        raise ConfigError(f"{path}: is quantized already, to {config.quantization.name}")
    _write(config, format, descriptor, _open_reader(path, config, progress), on_packed)


def build_network(config: Phi3Config, source: WeightSource) -> Network:
    """The network that `config` describes, of the weights in `source`."""
    if config.small is not None:
        small_weights, heads = phi3small_weights.load_phi3small(config, source)
        return Phi3SmallNetwork(config, small_weights, heads, source.format)
    weights, heads = phi3_weights.load_phi3(config, source)
    return Phi3Network(config, weights, heads, source.format)


def packed_file_bytes(config: Phi3Config, reader: WeightReader, format: str) -> int:
    """Of the file that a checkpoint makes, unless some of its weights have to keep more bits."""
    source = MeasuringSource(reader.shapes, format)
    build_network(config, source)
    return source.file_bytes


def expected_shapes(config: Phi3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint may hold and the network uses."""
    if config.small is not None:
        return phi3small_weights.expected_shapes(config)
    return phi3_weights.expected_shapes(config)


def required_names(config: Phi3Config) -> list[str]:
    """The tensors without which the network cannot run."""
    if config.small is not None:
        return phi3small_weights.required_names(config)
    return phi3_weights.required_names(config)


def _open_reader(path: Path, config: Phi3Config, progress: Progress | None) -> WeightReader:
    return WeightReader(path, expected_shapes(config), required_names(config), progress)


def _load_cached(
    path: Path,
    config: Phi3Config,
    format: str,
    cache: PackedCache,
    reader: WeightReader,
    progress: Progress | None,
) -> Network:
    """Map what the cache has, or else put it there first. OSError where the cache does not work."""
    key = _cache_key(path, format)
    num_bytes = packed_file_bytes(config, reader, format)
    has_written = False

    def write(descriptor: int, max_bytes: int) -> None:
        nonlocal has_written
        _write(config, format, descriptor, reader, max_bytes=max_bytes)
        has_written = True

    def on_wait() -> None:
        if progress is not None:
            progress(0, num_bytes)

    entry = cache.find(key) or cache.make(key, num_bytes, write, on_wait)
    # Who has packed it was told already, of what was read.
    untold = None if has_written else progress
    try:
        with entry.stream:
            return _map_network(config, format, entry.stream, entry.file, untold)
    except ConfigError as error:
        cache.remove(key)
        if has_written:
            raise OSError(str(error)) from None
        logger.warning("%s; it is made again", error)
    return _load_cached(path, config, format, cache, reader, progress)


def _write(
    config: Phi3Config,
    format: str,
    descriptor: int,
    reader: WeightReader,
    on_packed: Callable[[PackedWeight], None] | None = None,
    max_bytes: int | None = None,
) -> None:
    num_bytes = packed_file_bytes(config, reader, format)
    writer = PackedFileWriter(descriptor, format, reader.shapes, num_bytes, max_bytes)
    build_network(config, PackingSource(reader, format, writer, on_packed))
    writer.finish()


def _map_network(
    config: Phi3Config, format: str, stream: BinaryIO, file: Path, progress: Progress | None
) -> Network:
    """The network of a packed file, which is open."""
    shapes, required = expected_shapes(config), required_names(config)
    source = PackedSource(stream, file, format, shapes, required, progress)
    return build_network(config, source)


def _cache_key(path: Path, format: str) -> str:
    """64 hex digits for what decides a packed file: the checkpoint, the format, how it is packed.

    The fingerprint looks at a few numbers of a weight only; who changes others changes the time of
    the file.
    """
    versions = (VERSION, ops.PACKED_LAYOUT_VERSION, POLICY_VERSION)
    stats = [file.stat() for file in weight_files(path)]
    parts = (fingerprint(path), format, versions, [(s.st_size, s.st_mtime_ns) for s in stats])
    return hashlib.sha256(repr(parts).encode()).hexdigest()
