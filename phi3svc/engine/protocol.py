"""What front and engine process say to each other: msgpack in length-prefixed frames.

A frame is a 4-byte big-endian length and that many bytes of msgpack. The front opens with `Load`;
the engine answers with any number of `LoadProgress` and then `Ready` or `LoadFailed`. From then on
the front sends requests, what is to become of them (cancel, pause, resume) and at last `Shutdown`,
and the engine sends `StepEvents`.
Either side takes the end of the stream for the other's death.
"""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.events import StepEvents
from phi3svc.engine.request import ClassifyRequest, Control, GenerateRequest

MAX_FRAME_BYTES = 1 << 28
"""A bound on what a broken peer can make us hold; the scores of a whole context fit well."""

_LENGTH = struct.Struct(">I")


class ModelSource(Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint to serve. path: its folder. dtype, device: as `--dtype`, `--device` have it."""

    name: str
    path: str
    dtype: str = "auto"
    device: str = "cpu"


class Load(Struct, frozen=True, forbid_unknown_fields=True, tag="load"):
    """The first frame: what to load, and how to run it."""

    models: list[ModelSource]
    config: EngineConfig


class Shutdown(Struct, frozen=True, forbid_unknown_fields=True, tag="shutdown"):
    """The last frame: leave; what is still running has been given up."""


class LoadProgress(Struct, frozen=True, forbid_unknown_fields=True, tag="progress"):
    """`done` of `total` bytes of a model's weights are in memory."""

    model: str
    done: int
    total: int


class LoadedModel(Struct, frozen=True, forbid_unknown_fields=True):
    """What only the loaded model tells: see `async_engine.ModelInfo`."""

    name: str
    context_len: int
    dtype: str
    fingerprint: str
    tasks: list[str]


class Ready(Struct, frozen=True, forbid_unknown_fields=True, tag="ready"):
    """Every model is loaded, in the order asked for."""

    models: list[LoadedModel]


class LoadFailed(Struct, frozen=True, forbid_unknown_fields=True, tag="load_failed"):
    """The engine gives up. message: one line. is_config: the setting or checkpoint is at fault."""

    message: str
    is_config: bool


ToEngine = Load | GenerateRequest | ClassifyRequest | Control | Shutdown
FromEngine = LoadProgress | Ready | LoadFailed | StepEvents

decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
_encode = msgspec.msgpack.Encoder().encode


class FrameTooLarge(ValueError):
    """A frame beyond MAX_FRAME_BYTES."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a frame of {length} bytes, not at most {MAX_FRAME_BYTES}")


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """One message as a frame. Raises FrameTooLarge."""
    payload = _encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLarge(len(payload))
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; the payloads of the frames that are now complete.

        Raises FrameTooLarge as soon as such a length is announced.
        """
        self._buffer += data
        payloads = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise FrameTooLarge(length)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return payloads
