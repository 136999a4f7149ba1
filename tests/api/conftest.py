"""The tiny checkpoints of the model's tests."""

from __future__ import annotations

from tests.model.conftest import checkpoint, quiet_single_thread

__all__ = ["checkpoint", "quiet_single_thread"]
