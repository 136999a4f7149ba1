"""Tensors whose memory is asked of the system by itself, in huge pages where there are any.

Weights are read from end to end for every token, faster so than through pages of 4 KiB; and such
pages are filled three times as fast when they are new. They are anonymous, or those of a file:
huge pages of a file are as fast as others.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

_HUGE_PAGE_BYTES = 2 << 20
_OWN_PAGES_BYTES = 1 << 20
# What the mmap module has no names for yet (linux/mman.h).
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose memory is the system's again as soon as it is dropped.

    On malloc's heap, tensors that are packed and dropped at once leave holes between the packed
    ones, half a gigabyte of them in Phi-3-mini.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _OWN_PAGES_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _use_huge_pages(pages)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class FileMapping:
    """A file's bytes as tensors, which keep the mapping alive.

    The mapping is private: whatever wrote to it would change this process's memory and never the
    file. (A read-only one would do as well, if torch took its buffer without a warning.) It holds
    the file open, and with it the lock that a descriptor of the file has.
    """

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._pages = mmap.mmap(
            descriptor,
            num_bytes,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
        _use_huge_pages(self._pages)

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor at byte `offset`. Reads it from the disk, in so far as it is not cached."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(shape, dtype=dtype)
        page = offset // mmap.PAGESIZE * mmap.PAGESIZE
        _populate(self._pages, _MADV_POPULATE_READ, page, offset + num_bytes - page)
        count = math.prod(shape)
        return torch.frombuffer(self._pages, dtype=dtype, count=count, offset=offset).view(shape)


def writable_tensor(
    descriptor: int, offset: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A tensor whose memory is the file's bytes from `offset` on, which must be there."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    begin = offset // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    pages = mmap.mmap(descriptor, offset + num_bytes - begin, flags=mmap.MAP_SHARED, offset=begin)
    _use_huge_pages(pages)
    # Three times as fast as a fault for every page.
    page = (offset - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    _populate(pages, _MADV_POPULATE_WRITE, page, len(pages) - page)
    count = math.prod(shape)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=offset - begin).view(shape)


def _use_huge_pages(pages: mmap.mmap) -> None:
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)


def _populate(pages: mmap.mmap, advice: int, start: int, num_bytes: int) -> None:
    with contextlib.suppress(OSError):  # Linux before 5.14; pages then come as they are touched
        pages.madvise(advice, start, num_bytes)
