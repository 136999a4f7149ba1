"""Which suites are run over the CUDA backend: `python tests/cuda_suites.py NAME` prints paths."""

from __future__ import annotations

import sys

QUICK = [
    "tests/model/test_batching.py",
    "tests/model/test_inputs.py",
    "tests/model/test_passes.py",
    "tests/model/test_phi3.py",
    "tests/engine/test_core.py",
    "tests/engine/test_many_sequences.py",
    "tests/engine/test_queued_steps.py",
]
"""With more of them, the CPU would compute as CUDA does for longer than anyone waits."""

SUITES = {
    "ops": ["tests/ops"],
    "model": [
        *QUICK,
        "tests/model/test_family.py",
        "tests/model/test_phi3small.py",
        "tests/model/test_rope_network.py",
        "tests/engine/test_longrope_batch.py",
        "tests/engine/test_prefix_replay.py",
        "tests/engine/test_replay.py",
        "tests/engine/test_replay_mixes.py",
        "tests/engine/test_speculation.py",
        "tests/engine/test_token_logprobs.py",
    ],
    "emulated": ["tests/ops", *QUICK],
}
"""ops and model are for a GPU, emulated is for the CPU."""

if __name__ == "__main__":
    print(*SUITES[sys.argv[1]])
