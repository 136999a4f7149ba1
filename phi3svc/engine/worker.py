"""The engine process: `python -m phi3svc.engine.worker --fd N`, N being its end of a socket pair.

One thread: read what the front sent, step, tell. It reads without waiting while there is work and
sleeps in the socket when there is none. It lives as long as its front does: the end of the stream
ends it, whatever became of the front.
"""

from __future__ import annotations

import argparse
import gc
import logging
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from phi3svc.engine.events import EngineEvent, FailedEvent, StepEvents
from phi3svc.engine.protocol import (
    FrameReader,
    FrameTooLarge,
    FromEngine,
    Load,
    LoadFailed,
    LoadProgress,
    Ready,
    Shutdown,
    ToEngine,
    decode_to_engine,
    encode_frame,
)
from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.log import setup_logging

if TYPE_CHECKING:
    from phi3svc.engine.host import EngineHost

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 1 << 16


class FrontConnection:
    """The engine's end of the socket pair. EOFError and OSError mean that the front is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()

    def receive(self, wait_s: float | None) -> list[ToEngine]:
        """Everything the front has sent. wait_s: for the first message; None for however long."""
        if wait_s != 0:
            select.select([self._sock], [], [], wait_s)
        messages: list[ToEngine] = []
        while True:
            try:
                data = self._sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            if not data:
                raise EOFError
            messages += [decode_to_engine(payload) for payload in self._reader.feed(data)]

    def send(self, message: FromEngine) -> None:
        self._sock.sendall(encode_frame(message))


def serve(connection: FrontConnection) -> None:
    """Load what the front asks for, then serve until it says Shutdown."""
    messages: list[ToEngine] = []
    while not messages:
        messages = connection.receive(None)
    load, *rest = messages
    if not isinstance(load, Load) or rest:
        raise ValueError("the front did not begin with a single Load")
    host = _load(load, connection.send)
    if host is None:
        return
    # What is there by now stays: the garbage collector need not look at it ever again.
    gc.collect()
    gc.freeze()
    connection.send(Ready(host.models))
    while True:
        events = []
        for message in connection.receive(0 if host.has_work else host.idle_s):
            if isinstance(message, Shutdown):
                return
            if isinstance(message, Load):
                raise ValueError("the front sent a second Load")
            events += host.handle(message)
        if host.has_work:
            events += host.step()
        if events:
            send_events(events, connection.send)


def send_events(events: list[EngineEvent], send: Callable[[StepEvents], None]) -> None:
    """Tell the front, in one frame unless that is too large; what no frame can hold has failed."""
    try:
        send(StepEvents(events))
    except FrameTooLarge as error:
        if len(events) == 1:
            refusal = InvalidRequest.of("input", f"the answer is too large: {error}")
            events = [FailedEvent.from_error(events[0].request_id, refusal)]
        for event in events:
            send_events([event], send)


def _load(load: Load, send: Callable[[LoadProgress | LoadFailed], None]) -> EngineHost | None:
    try:
        # Here and not above: torch takes seconds, and may be missing or broken.
        from phi3svc.engine.host import EngineHost

        return EngineHost(load.models, load.config, send)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except ConfigError as error:
        send(LoadFailed(_one_line(error), is_config=True))
    except Exception as error:
        logger.exception("loading failed")
        send(LoadFailed(f"{type(error).__name__}: {_one_line(error)}", is_config=False))
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def main() -> None:
    """Entry point of the engine process."""
    # Ctrl-C and an init system's SIGTERM reach every process of the service; when this one ends is
    # the front's decision, which may still be draining.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setup_logging("engine")
    parser = argparse.ArgumentParser(prog="phi3svc.engine.worker")
    parser.add_argument("--fd", type=int, required=True)
    with socket.socket(fileno=parser.parse_args().fd) as sock:
        try:
            serve(FrontConnection(sock))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            logger.info("the front is gone")


if __name__ == "__main__":
    main()
