"""What cuobjdump says of every kernel in a binary: its registers, memory and instructions."""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

COUNTED = ("HMMA", "HGMMA", "LDL", "STL")

_ARCH = re.compile(r"^(?:arch =|\s*code for) (sm_\w+)")
_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\w+):?\s*$")
_USAGE = re.compile(r"\b(REG|STACK|SHARED|LOCAL):(\d+)")
# "/*00a0*/  @!P0 LDL.64 R2, [R1+0x8] ;": address, perhaps a predicate, opcode.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)")


@dataclass
class Kernel:
    """One kernel as compiled for one architecture. shared: what it has without asking at launch."""

    name: str
    arch: str
    registers: int = 0
    stack: int = 0
    shared: int = 0
    local: int = 0
    instructions: Counter[str] = field(default_factory=Counter)

    @property
    def local_memory(self) -> bool:
        """Whether anything of a thread's lies outside its registers: a spill, or an array."""
        return any((self.stack, self.local, self.instructions["LDL"], self.instructions["STL"]))


def kernels_of(binary: Path) -> list[Kernel]:
    """Every kernel of the binary, for every architecture, names demangled."""
    usage = _lines_of("-res-usage", binary)
    code = _lines_of("-sass", binary)
    kernels = parse(usage, code)
    for kernel, name in zip(kernels, _demangled(k.name for k in kernels), strict=True):
        kernel.name = name
    return kernels


def parse(usage: Iterable[str], code: Iterable[str]) -> list[Kernel]:
    """usage: the lines of `cuobjdump -res-usage`; code: those of `cuobjdump -sass`."""
    kernels: dict[tuple[str, str], Kernel] = {}
    for arch, name, line in _within_functions(usage):
        kernel = kernels.setdefault((arch, name), Kernel(name, arch))
        for key, value in _USAGE.findall(line):
            attribute = {"REG": "registers"}.get(key, key.lower())
            setattr(kernel, attribute, int(value))
    for arch, name, line in _within_functions(code):
        instruction = _INSTRUCTION.match(line)
        if instruction and instruction[1] in COUNTED:
            kernels[arch, name].instructions[instruction[1]] += 1
    return list(kernels.values())


def _within_functions(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Each line with the architecture and the function that it lies in."""
    arch = name = ""
    for line in lines:
        if found := _ARCH.match(line):
            arch, name = found[1], ""
        elif found := _FUNCTION.match(line):
            name = found[1]
        elif name:
            yield arch, name, line


def _lines_of(what: str, binary: Path) -> Iterator[str]:
    command = [_cuobjdump(), what, str(binary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        sys.exit(f"cuda-check: {' '.join(command)} failed")


def _cuobjdump() -> str:
    """That of the machine, or of the wheel nvidia-cuda-cuobjdump."""
    wheels = Path(sysconfig.get_path("purelib"), "nvidia")
    candidates = [shutil.which("cuobjdump"), *map(str, wheels.glob("*/bin/cuobjdump"))]
    found = next(filter(None, candidates), None)
    if found is None:
        sys.exit("cuda-check: no cuobjdump on PATH; pip install nvidia-cuda-cuobjdump")
    return found


def _demangled(names: Iterable[str]) -> list[str]:
    text = "\n".join(names)
    result = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()
