"""What the kernels of a build must look like."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.cuda_check.kernels import Kernel


@dataclass(frozen=True)
class Rule:
    """For kernels whose name matches, of which every architecture must have one.

    instruction: what they must contain. local_memory: whether they may have any.
    """

    pattern: str
    architectures: tuple[str, ...]
    instruction: str | None = None
    local_memory: bool = True

    def violations(self, kernels: Iterable[Kernel]) -> Iterator[str]:
        missing = set(self.architectures)
        for kernel in kernels:
            if kernel.arch not in self.architectures or not re.search(self.pattern, kernel.name):
                continue
            missing.discard(kernel.arch)
            if self.instruction and not kernel.instructions[self.instruction]:
                yield f"{kernel.name} for {kernel.arch} has no {self.instruction}"
            if kernel.local_memory and not self.local_memory:
                yield (
                    f"{kernel.name} for {kernel.arch} uses local memory: stack {kernel.stack}, "
                    f"{kernel.instructions['LDL']} LDL, {kernel.instructions['STL']} STL"
                )
        for arch in sorted(missing):
            yield f"no kernel for {arch} matches {self.pattern!r}"


EVERY = ("sm_80", "sm_90a")
RULES = (
    Rule(r"\bcutlass::device_kernel\b", ("sm_90a",), "HGMMA", local_memory=False),
    Rule(r"\battention_prefill_wgmma\b", ("sm_90a",), "HGMMA", local_memory=False),
    Rule(r"\bdecode_gemm\b", EVERY, "HMMA", local_memory=False),
    Rule(r"\battention_decode\b", EVERY, "HMMA", local_memory=False),
    Rule(r"decode", EVERY, local_memory=False),
    Rule(r"\btiled_gemm\b", EVERY, "HMMA", local_memory=False),
    # At the limit of registers with head dim 128; on sm_90a it only stands in for WGMMA.
    Rule(r"\battention_prefill\b", EVERY, "HMMA"),
)
