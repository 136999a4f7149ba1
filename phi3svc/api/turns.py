"""Threads take turns at a network: its workspaces hold the numbers of one computation at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from phi3svc.errors import InvalidRequest
from phi3svc.model.network import Network


class _Turns:
    """Of one network. holder: the thread whose turn it is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holder: int | None = None


_TURNS: WeakKeyDictionary[Network, _Turns] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


@contextlib.contextmanager
def turn(network: Network) -> Iterator[None]:
    """Have the network for oneself, whichever models share it; waits for other threads.

    Raises InvalidRequest in a thread whose turn it is already: it would wait for itself.
    """
    with _TURNS_LOCK:
        turns = _TURNS.setdefault(network, _Turns())
    if turns.holder == threading.get_ident():
        raise InvalidRequest.of(
            "model", "called by a streamer or stopping criterion of its own generate"
        )
    with turns.lock:
        turns.holder = threading.get_ident()
        try:
            network.prepare()
            yield
        finally:
            turns.holder = None
