"""Where a model runs, and memory there; the only place that asks torch for CUDA's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.errors import ConfigError

_MIN_CAPABILITY = (8, 0)


def find_device(name: str | torch.device, setting: str = "device") -> torch.device:
    """The device `name` ("cpu", "cuda" or "cuda:1"), if ops run there.

    Raises ConfigError, which calls it `setting`.
    """
    where = f"{setting}={str(name)!r}"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"{where}: must be cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"{where}: must be cpu, cuda or cuda:N")
    return _find_cuda_device(where, device.index or 0)


def _find_cuda_device(where: str, index: int) -> torch.device:
    built_for = ops.build_info()["cuda"]
    match built_for:
        case "off":
            raise ConfigError(f"{where}: built without CUDA; rebuild with PHI3SVC_CUDA=on")
        case "emulated":
            raise ConfigError(f"{where}: this build emulates CUDA, for tests on the CPU")
    if torch.version.cuda is None:
        raise ConfigError(f"{where}: torch {torch.__version__} has no CUDA; install one that has")
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        # By it the extension learns which stream is torch's current one.
        raise ConfigError(
            f"{where}: torch {torch.__version__} is too old for CUDA: needs one with the DLPack C"
            " exchange API"
        )
    num_devices = torch.cuda.device_count()
    if num_devices == 0 or not torch.cuda.is_available():
        raise ConfigError(f"{where}: no CUDA device, or no driver for one, is here")
    if index >= num_devices:
        raise ConfigError(f"{where}: must be below cuda:{num_devices}")
    capability = torch.cuda.get_device_capability(index)
    if capability < _MIN_CAPABILITY:
        needed, found = (".".join(map(str, pair)) for pair in (_MIN_CAPABILITY, capability))
        raise ConfigError(f"{where}: needs compute capability {needed}; this device has {found}")
    if not _has_code(built_for, capability):
        found = ".".join(map(str, capability))
        raise ConfigError(
            f"{where}: this build has code for {built_for}; this device has compute capability"
            f" {found}; rebuild with that in PHI3SVC_CUDA_ARCHITECTURES"
        )
    return torch.device("cuda", index)


def _has_code(built_for: str, capability: tuple[int, int]) -> bool:
    """Whether a build for these, "sm_80 compute_80 sm_90a", has code for such a device.

    That of sm_80 runs on 8.0 and later ones of 8; compute_80 is PTX, which a driver translates for
    all later ones; an "a" is for that one alone.
    """
    for kind, _, number in (name.partition("_") for name in built_for.split()):
        digits = number.rstrip("af")
        if not digits.isdecimal():  # a word of CMake's, "native"
            return True
        found = divmod(int(digits), 10)
        if number.endswith("a"):
            runs = capability == found
        else:
            runs = capability >= found and (kind == "compute" or capability[0] == found[0])
        if runs:
            return True
    return False


def describe_devices() -> list[str]:
    """The CUDA devices that torch sees, each with why it cannot be used, if so."""
    if torch.version.cuda is None:
        return [f"cuda (torch {torch.__version__} has no CUDA)"]
    lines = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        text = f"cuda:{index}: {device.name}, {device.total_memory / 2**30:.0f} GiB"
        try:
            find_device(f"cuda:{index}")
        except ConfigError as error:
            text += f" ({str(error).partition(': ')[2]})"
        lines.append(text)
    return lines


def free_device_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device's memory that tensors may still take."""
    free, _ = torch.cuda.mem_get_info(device)
    # What torch keeps for tensors to come is as good as free.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_lost(device: torch.device) -> bool:
    """Whether nothing can be computed on a device any more until the process is a new one."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:  # an error of a kernel's is there for good
        return True
    return False


class StreamOrder:
    """Has what torch's streams do with the same memory come one after the other.

    A thread's current stream can be another one at every call, and another thread's is its own.
    On a CPU there are none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def has_changed(self) -> bool:
        """Whether the current stream is not the one of the last call.

        It then goes on behind what that one has been given so far.
        """
        if self._last is None:
            return False
        current = torch.cuda.current_stream(self._device)
        if current == self._last:
            return False
        current.wait_stream(self._last)
        self._last = current
        return True

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """See that memory of other streams, once free, is not used until this one is done too."""
        if self._last is not None:
            for tensor in tensors:
                tensor.record_stream(self._last)


def staged(tensor: Tensor) -> Tensor:
    """A tensor of the CPU's in page-locked memory, which torch keeps until queued copies are over.

    From other memory a copy may be queued, too, but not on every machine has it been read when the
    call returns.
    """
    return tensor.pin_memory()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The same on a device; from the CPU to another it is queued there, and not waited for."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return staged(tensor).to(device, non_blocking=True)


def host_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros in the CPU's memory, page-locked where ops on a device are to copy them."""
    return torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")


def fetched(tensor: Tensor) -> Tensor:
    """What `tensor` holds, in the CPU's memory: itself, if that is where ops have it.

    Else a new tensor and a call of ops that copies to it, for a program that is being recorded.
    """
    if ops.backend(tensor.device) == "cpu":
        return tensor
    host = host_tensor(tuple(tensor.shape), tensor.dtype, tensor.device)
    ops.copy(tensor, host)
    return host
