"""Kernels as lines of text."""

from collections.abc import Iterable, Iterator

from tests.cuda_check.kernels import Kernel

HEADER = ("kernel", "arch", "registers", "shared", "stack", "LDL+STL", "HMMA", "HGMMA")


def table(kernels: Iterable[Kernel]) -> Iterator[str]:
    """A row for each, by name. shared: without what a launch asks for."""
    rows = [HEADER, *(_row(k) for k in sorted(kernels, key=lambda k: (k.name, k.arch)))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    for row in rows:
        left, right = zip(row[:2], widths[:2], strict=True), zip(row[2:], widths[2:], strict=True)
        yield "  ".join([*(c.ljust(w) for c, w in left), *(c.rjust(w) for c, w in right)])


def _row(kernel: Kernel) -> tuple[str, ...]:
    count = kernel.instructions
    numbers = (
        kernel.registers,
        kernel.shared,
        kernel.stack,
        count["LDL"] + count["STL"],
        count["HMMA"],
        count["HGMMA"],
    )
    return (short(kernel.name), kernel.arch, *map(str, numbers))


def short(name: str) -> str:
    """Without return type, parameters and the namespaces that all kernels share.

    >>> short("void phi3::cuda::(anonymous namespace)::norm_kernel<float>(phi3::cuda::NormParams)")
    'norm_kernel<float>'
    """
    for noise in ("(anonymous namespace)::", "phi3::cuda::", "phi3::"):
        name = name.replace(noise, "")
    name = name.removeprefix("void ")
    return name[: _parameters_at(name)] if name.endswith(")") else name


def _parameters_at(name: str) -> int:
    """Where the parenthesis opens that the last character closes."""
    depth = 0
    for at in reversed(range(len(name))):
        depth += (name[at] == ")") - (name[at] == "(")
        if depth == 0:
            return at
    raise ValueError(name)
