"""The device that is tested: PHI3SVC_TEST_DEVICE, the CPU if not said."""

from __future__ import annotations

import os

import torch

from phi3svc import ops

DEVICE = torch.device(os.environ.get("PHI3SVC_TEST_DEVICE", "cpu"))
BACKEND = ops.backend(DEVICE)
"""What runs the ops there, "cpu" or "cuda". With an emulated extension it is "cuda" on the CPU."""
