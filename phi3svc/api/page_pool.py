"""KV pages of one cache, of which there are more when they are needed."""

from __future__ import annotations

from collections.abc import Sequence

from phi3svc.api.memory import require_bytes
from phi3svc.model.kv_cache import KVCache, page_bytes
from phi3svc.model.network import Network


class PagePool:
    """kv: the pages; its ids stay what they are when it is replaced by a larger one."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._free: list[int] = []
        self.kv = KVCache(network.config, 0, network.dtype, network.device)

    def reserve(self, num_pages: int) -> None:
        """See that `num_pages` are free. Raises InvalidRequest if memory does not hold them."""
        num_old = self.kv.num_pages
        num_missing = num_pages - len(self._free)
        if num_missing <= 0:
            return
        # A quarter to spare, or a loop would copy all of them whenever it fills a page.
        num_wanted = num_old + num_missing
        num_new = num_wanted + num_wanted // 4 + 1
        # Untouched pages are address space on a CPU, no memory; on CUDA they are memory.
        num_taken = num_new if self._network.backend == "cuda" else num_wanted
        num_bytes = num_taken * page_bytes(self._network.config, self._network.dtype)
        device = self._network.device
        require_bytes("input_ids", num_bytes, "their keys and values", device)
        kv = KVCache(self._network.config, num_new, self._network.dtype, device)
        kv.copy_pages(self.kv, range(num_old), range(num_old))
        self.kv = kv
        self._free += range(num_new - 1, num_old - 1, -1)

    def take(self, num_pages: int) -> list[int]:
        """Ids of pages that `reserve` made sure of."""
        return [self._free.pop() for _ in range(num_pages)]

    def give_back(self, page_ids: Sequence[int]) -> None:
        self._free += page_ids

    def copies(self, source: PagePool, page_ids: Sequence[int]) -> list[int]:
        """Pages of this pool that hold what those of `source` hold. Raises as `reserve` does."""
        self.reserve(len(page_ids))
        own_ids = self.take(len(page_ids))
        self.kv.copy_pages(source.kv, page_ids, own_ids)
        return own_ids
