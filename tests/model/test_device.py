"""Which devices are taken, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.errors import ConfigError
from phi3svc.model import device as device_module
from phi3svc.model.device import describe_devices, fetched, find_device, free_device_bytes, is_lost
from phi3svc.model.kv_cache import page_bytes, page_dtype
from phi3svc.model.loader import load_network, weight_format
from phi3svc.model.quantization import first_format
from tests.model.conftest import MakeCheckpoint

pytestmark = pytest.mark.cpu_only


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device's ops are CUDA's, as far as Python decides by that."""
    monkeypatch.setattr(ops, "backend", lambda device: "cuda")


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    built_for: str = "sm_80 compute_80 sm_90a",
    torch_cuda: str | None = "13.0",
    capabilities: Mapping[int, tuple[int, int]] = {0: (9, 0)},
) -> None:
    """As if the extension, torch and the machine had these."""
    monkeypatch.setattr(ops, "build_info", lambda: {"cuda": built_for})
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name="GPU", total_memory=80 << 30),
    )


class TestFindDevice:
    @pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu")])
    def test_the_cpu_is_always_there(self, name: str | torch.device) -> None:
        assert find_device(name) == torch.device("cpu")

    def test_cuda_is_the_first_device_unless_it_says_which(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, capabilities={0: (9, 0), 1: (8, 0)})
        assert find_device("cuda") == torch.device("cuda", 0)
        assert find_device(torch.device("cuda", 1)) == torch.device("cuda", 1)

    @pytest.mark.parametrize("name", ["tpu", "cuda:x", "mps", ""])
    def test_other_names_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="must be cpu, cuda or cuda:N"):
            find_device(name)

    @pytest.mark.parametrize(
        ("here", "message"),
        [
            ({"built_for": "off"}, r"device='cuda:1': built without CUDA; .*PHI3SVC_CUDA=on"),
            ({"built_for": "emulated"}, "this build emulates CUDA"),
            ({"torch_cuda": None}, r"torch \S+ has no CUDA; install one that has"),
            ({"capabilities": {}}, "no CUDA device, or no driver for one, is here"),
            ({"capabilities": {0: (9, 0)}}, "must be below cuda:1"),
            (
                {"capabilities": {0: (9, 0), 1: (7, 5)}},
                r"needs compute capability 8\.0; this device has 7\.5",
            ),
        ],
    )
    def test_it_says_what_is_missing(
        self, here: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, **here)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=message):
            find_device("cuda:1")

    @pytest.mark.parametrize(
        ("built_for", "capability", "is_usable"),
        [
            ("sm_80 compute_80 sm_90a", (9, 0), True),
            ("sm_80 compute_80 sm_90a", (12, 0), True),  # the driver translates the PTX
            ("sm_80", (8, 6), True),
            ("sm_80 sm_90a", (10, 0), False),
            ("sm_89", (8, 6), False),
            ("sm_80", (9, 0), False),
            ("sm_90a", (8, 0), False),
            ("sm_90a compute_90a", (10, 0), False),
            ("native", (9, 0), True),
        ],
    )
    def test_the_build_needs_code_for_it(
        self,
        built_for: str,
        capability: tuple[int, int],
        is_usable: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pretend(monkeypatch, built_for, capabilities={0: capability})
        if is_usable:
            assert find_device("cuda") == torch.device("cuda", 0)
            return
        number = ".".join(map(str, capability))
        message = (
            f"this build has code for {built_for}; this device has compute capability {number}"
        )
        with pytest.raises(ConfigError, match=f"device='cuda': {message}; rebuild with that in"):
            find_device("cuda")

    def test_a_torch_that_does_not_tell_its_stream_is_too_old(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch)
        monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
        with pytest.raises(ConfigError, match=r"torch \S+ is too old for CUDA: needs") as error:
            find_device("cuda")
        assert "\n" not in str(error.value)

    def test_info_names_devices_and_why_they_are_of_no_use(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, capabilities={0: (9, 0), 1: (7, 5)})
        usable, old = describe_devices()
        assert usable == "cuda:0: GPU, 80 GiB"
        assert old.startswith("cuda:1: GPU, 80 GiB (needs compute capability 8.0")
        pretend(monkeypatch, torch_cuda=None)
        assert describe_devices() == [f"cuda (torch {torch.__version__} has no CUDA)"]


def test_what_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert free_device_bytes(torch.device("cuda", 0)) == 1200


def test_a_device_is_lost_when_it_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    assert not is_lost(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert not is_lost(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert is_lost(torch.device("cuda", 0))


def test_what_a_device_holds_is_fetched_into_other_memory(on_cuda: None) -> None:
    tensor = torch.tensor([1, 2, 3], dtype=torch.int32)
    host = fetched(tensor)
    assert host.equal(tensor)
    assert host.data_ptr() != tensor.data_ptr()


def test_on_a_cpu_nothing_has_to_be_fetched() -> None:
    tensor = torch.zeros(3)
    assert fetched(tensor) is tensor


class TestFormats:
    """Of weights and pages: integers on a CPU, fp8 on CUDA."""

    def test_on_a_cpu(self, checkpoint: MakeCheckpoint) -> None:
        config = Phi3Config.from_dir(checkpoint())
        assert weight_format(config, "int8", "here") == "int8"
        with pytest.raises(ConfigError, match="dtype='fp8': is for CUDA devices; on a CPU use"):
            weight_format(config, "fp8", "here")
        assert page_dtype("int8", torch.bfloat16) == torch.int8
        with pytest.raises(ConfigError, match=r"kv_dtype='fp8': must be auto or int8 on cpu"):
            page_dtype("fp8", torch.bfloat16)

    def test_on_cuda(self, checkpoint: MakeCheckpoint, on_cuda: None) -> None:
        config, device = Phi3Config.from_dir(checkpoint()), torch.device("cuda", 0)
        assert weight_format(config, "fp8", "here", device) == "fp8"
        assert weight_format(config, "bfloat16", "here", device) == "bfloat16"
        for dtype in ("int8", "int4", "int4-g128"):
            with pytest.raises(ConfigError, match=f"dtype='{dtype}': is for a CPU; on cuda:0 use"):
                weight_format(config, dtype, "here", device)
        assert page_dtype("fp8", torch.bfloat16, device) == torch.float8_e4m3fn
        assert page_dtype("auto", torch.bfloat16, device) == torch.bfloat16
        with pytest.raises(ConfigError, match=r"kv_dtype='int8': must be auto or fp8 on cuda:0"):
            page_dtype("int8", torch.bfloat16, device)

    def test_a_page_of_fp8_takes_half_of_one_of_bfloat16(self, checkpoint: MakeCheckpoint) -> None:
        config = Phi3Config.from_dir(checkpoint())
        assert 2 * page_bytes(config, torch.float8_e4m3fn) == page_bytes(config, torch.bfloat16)

    def test_only_a_classifiers_rows_are_left_alone(self) -> None:
        assert first_format("lm_head.weight", 1 << 20, "fp8") == "fp8"
        assert first_format("score.weight", 64, "fp8") == "bfloat16"


def test_a_device_that_is_not_there_is_an_error_of_one_line(checkpoint: MakeCheckpoint) -> None:
    network = load_network(checkpoint())
    assert network.backend == "cpu"
    assert network.sampling_workspace(4) is None
    with pytest.raises(ConfigError) as error:
        device_module.find_device("cuda")
    assert "\n" not in str(error.value)
