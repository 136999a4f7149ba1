"""The check of CUDA builds, on what cuobjdump has once said."""

import pytest

from tests.cuda_check.kernels import Kernel, parse
from tests.cuda_check.rules import Rule
from tests.cuda_check.table import short, table

USAGE = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _Z11decode_gemmv:
  REG:96 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:376 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z4normv:
  REG:32 STACK:16 SHARED:1024 LOCAL:8 CONSTANT[0]:376 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a
Resource usage:
 Function _Z11decode_gemmv:
  REG:72 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:552
"""
CODE = """
\tcode for sm_80
\t.target\tsm_80

\t\tFunction : _Z11decode_gemmv
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/                   MOV R1, c[0x0][0x28] ;  /* 0x00000a0000017a02 */
                                        /* 0x000fe40000000f00 */
        /*0010*/                   HMMA.16816.F32.BF16 R8, R8, R18, RZ ;  /* 0x000000120808723c */
        /*0020*/              @!P0 HMMA.16816.F32.BF16 R8, R8, R18, R8 ;  /* 0x000000120808723c */
\t\tFunction : _Z4normv
        /*0000*/               @P1 STL.64 [R1+0x8], R2 ;  /* 0x0000000001007387 */
        /*0010*/              @UP0 LDL R2, [R1+0x8] ;  /* 0x0000000001007983 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R3], [R4.64] ;  /* 0x0000000004037fae */
\tcode for sm_90a
\t\tFunction : _Z11decode_gemmv
        /*0010*/                   HGMMA.64x16x16.F32.BF16 R8, gdesc[UR4] ; /* 0x00600000040879f0 */
"""


@pytest.fixture
def kernels() -> list[Kernel]:
    return parse(USAGE.splitlines(), CODE.splitlines())


def test_kernels_are_told_apart_by_architecture(kernels: list[Kernel]) -> None:
    decode, norm, hopper = kernels
    assert (decode.name, decode.arch, decode.registers) == ("_Z11decode_gemmv", "sm_80", 96)
    assert dict(decode.instructions) == {"HMMA": 2}
    assert not decode.local_memory
    assert (norm.stack, norm.shared, norm.local) == (16, 1024, 8)
    assert dict(norm.instructions) == {"STL": 1, "LDL": 1}
    assert norm.local_memory
    assert (hopper.arch, dict(hopper.instructions)) == ("sm_90a", {"HGMMA": 1})


@pytest.mark.parametrize(
    ("rule", "violations"),
    [
        (Rule("decode", ("sm_80",), "HMMA", local_memory=False), []),
        (Rule("decode", ("sm_90a",), "HGMMA"), []),
        (Rule("decode", ("sm_80", "sm_90a"), "HMMA"), ["_Z11decode_gemmv for sm_90a has no HMMA"]),
        (
            Rule("norm", ("sm_80",), local_memory=False),
            ["_Z4normv for sm_80 uses local memory: stack 16, 1 LDL, 1 STL"],
        ),
        (Rule("norm", ("sm_80",)), []),
        (Rule("norm", ("sm_80", "sm_90a")), ["no kernel for sm_90a matches 'norm'"]),
    ],
)
def test_rules(kernels: list[Kernel], rule: Rule, violations: list[str]) -> None:
    assert list(rule.violations(kernels)) == violations


def test_table_has_a_line_for_each(kernels: list[Kernel]) -> None:
    header, *rows = table(kernels)
    assert header.split() == [
        "kernel", "arch", "registers", "shared", "stack", "LDL+STL", "HMMA", "HGMMA"
    ]  # fmt: skip
    assert [row.split() for row in rows] == [
        ["_Z11decode_gemmv", "sm_80", "96", "0", "0", "0", "2", "0"],
        ["_Z11decode_gemmv", "sm_90a", "72", "1024", "0", "0", "0", "1"],
        ["_Z4normv", "sm_80", "32", "1024", "16", "2", "0", "0"],
    ]
    assert len({len(row) for row in (header, *rows)}) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "void phi3::cuda::(anonymous namespace)::norm_kernel<float>(phi3::cuda::NormParams)",
            "norm_kernel<float>",
        ),
        (
            "void cutlass::device_kernel<phi3::cuda::sm90::GemmKernel<float, "
            "(phi3::cuda::sm90::GemmTile)2> >(phi3::cuda::sm90::GemmKernel<float, "
            "(phi3::cuda::sm90::GemmTile)2>::Params)",
            "cutlass::device_kernel<sm90::GemmKernel<float, (sm90::GemmTile)2> >",
        ),
        ("plain", "plain"),
    ],
)
def test_short_names(name: str, expected: str) -> None:
    assert short(name) == expected
