"""phi3svc: serve Microsoft's Phi-3 language models over gRPC, with replayable token streams.

The public names below load on first use, so that importing the package (as the server's front
process does) never pays for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from phi3svc.api.modeling import (
        Phi3ForCausalLM,
        Phi3ForSequenceClassification,
        Phi3ForTokenClassification,
        Phi3Model,
    )
    from phi3svc.config.model import Phi3Config

_HOMES = {
    "Phi3Config": "phi3svc.config.model",
    "Phi3Model": "phi3svc.api.modeling",
    "Phi3ForCausalLM": "phi3svc.api.modeling",
    "Phi3ForSequenceClassification": "phi3svc.api.modeling",
    "Phi3ForTokenClassification": "phi3svc.api.modeling",
}

__all__ = [
    "Phi3Config",
    "Phi3ForCausalLM",
    "Phi3ForSequenceClassification",
    "Phi3ForTokenClassification",
    "Phi3Model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phi3svc' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
