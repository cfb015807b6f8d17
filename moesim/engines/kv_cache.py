"""The KV cache as blocks: who holds how many, and which full ones a later prompt may find again.

Two pools behind one interface. ``CountedBlocks`` counts bytes and knows attention windows. ``CachedBlocks`` gives
every block an identity and keeps full blocks of freed requests until their place is needed, as vLLM's prefix cache
does (v1/core/block_pool.py, 0.25.1): free blocks wait in a queue whose head is taken first. A request's blocks join it
last block first, those that can be found again at its end, the others at its head; one found again leaves it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol

from moesim.engines.request import Request


class Blocks(Protocol):
    """What a scheduler asks of the cache."""

    block_size: int

    def found(self, request: Request) -> list[int]:
        """Cached blocks that hold the beginning of a request not yet begun; never its last token."""
        ...

    def admit(self, request: Request, found: list[int], tokens: int, must_fit: int, spare_share: float) -> bool:
        """Begin a request with the blocks found and room for ``tokens``.

        Only if ``must_fit`` tokens would find room, and ``spare_share`` of the cache stay free beside them.
        """
        ...

    def grow(self, request: Request, tokens: int) -> bool:
        """Room for ``tokens`` tokens of a running request, if there is."""
        ...

    def commit(self, request: Request, tokens: int) -> None:
        """The first ``tokens`` tokens of a request are final: their full blocks may be found again."""
        ...

    def release(self, request: Request) -> None: ...

    def room_for(self, growth: Iterable[tuple[Request, int]]) -> bool:
        """Whether every request can grow to its tokens at once."""
        ...

    @property
    def used_share(self) -> float:
        """Share of the cache that requests hold."""
        ...


class CountedBlocks:
    """Blocks by number alone.

    Parameters
    ----------
    capacity_bytes : float
        Room for keys and values on a GPU. [B]
    bytes_of : callable
        Bytes that a sequence of so many blocks holds; windowed layers keep their window only. [B]
    """

    def __init__(self, capacity_bytes: float, block_size: int, bytes_of: Callable[[int], float]):
        self.block_size = block_size
        self._capacity = self._free = capacity_bytes
        self._bytes_of = bytes_of
        self._table: list[float] = [0.0]

    def found(self, request: Request) -> list[int]:
        return []

    def admit(self, request: Request, found: list[int], tokens: int, must_fit: int, spare_share: float) -> bool:
        wanted = self._bytes(max(tokens, must_fit)) + spare_share * self._capacity
        return wanted <= self._free and self.grow(request, tokens)

    def grow(self, request: Request, tokens: int) -> bool:
        blocks = -(-tokens // self.block_size)
        held = request.blocks[0] if request.blocks else 0
        if blocks <= held:
            return True
        needed = self._bytes(tokens) - self._table[held]
        if needed > self._free:
            return False
        self._free -= needed
        request.blocks[:] = [blocks]
        request.room = blocks * self.block_size
        return True

    def commit(self, request: Request, tokens: int) -> None:
        pass

    def release(self, request: Request) -> None:
        if request.blocks:
            self._free += self._table[request.blocks[0]]
            request.blocks.clear()
            request.room = 0

    def room_for(self, growth: Iterable[tuple[Request, int]]) -> bool:
        needed = 0.0
        for request, tokens in growth:
            needed += max(self._bytes(tokens) - self._table[request.blocks[0]], 0.0)
        return needed <= self._free

    @property
    def used_share(self) -> float:
        return 1.0 - self._free / self._capacity

    def _bytes(self, tokens: int) -> float:
        blocks = -(-tokens // self.block_size)
        while len(self._table) <= blocks:
            self._table.append(self._bytes_of(len(self._table)))
        return self._table[blocks]


class CachedBlocks:
    """Blocks with identities, for prompts that share beginnings and for requests that come back after preemption.

    Parameters
    ----------
    count : int
        Blocks there are.
    """

    def __init__(self, count: int, block_size: int):
        self.block_size = block_size
        self._count = count
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        """Free blocks, the next to be taken first."""
        self._holders = [0] * count
        self._key_of: dict[int, Hashable] = {}
        self._by_key: dict[Hashable, dict[int, None]] = {}
        self._prompt_keys: dict[Request, list[Hashable]] = {}

    def found(self, request: Request) -> list[int]:
        found: list[int] = []
        keys = self._keys_of(request)
        full = (request.known - 1) // self.block_size
        for i in range(full if request.preemptions else min(full, len(keys))):
            same = self._by_key.get(keys[i] if i < len(keys) else (request.number, i))
            if not same:
                break
            found.append(next(iter(same)))
        return found

    def admit(self, request: Request, found: list[int], tokens: int, must_fit: int, spare_share: float) -> bool:
        waiting = sum(1 for block in found if not self._holders[block])
        needed = self._needed(max(tokens, must_fit)) - len(found) + waiting
        if needed + int(spare_share * (self._count + 1)) > len(self._queue):
            return False
        for block in found:
            if not self._holders[block]:
                del self._queue[block]
            self._holders[block] += 1
        request.blocks[:] = found
        request.keyed = len(found)
        request.room, request.next_full = len(found) * self.block_size, (len(found) + 1) * self.block_size
        return self.grow(request, tokens)

    def grow(self, request: Request, tokens: int) -> bool:
        more = self._needed(tokens) - len(request.blocks)
        if more > len(self._queue):
            return False
        for _ in range(more):
            request.blocks.append(self._take())
        request.room = len(request.blocks) * self.block_size
        return True

    def commit(self, request: Request, tokens: int) -> None:
        full = tokens // self.block_size
        if full > request.keyed:
            keys = self._keys_of(request)
            for i in range(request.keyed, min(full, len(keys))):
                self._name(request.blocks[i], keys[i])
            request.keyed = full
        request.next_full = (request.keyed + 1) * self.block_size

    def release(self, request: Request) -> None:
        if not request.finished:
            # Blocks that this request alone can find again need a key only now.
            for i in range(len(self._keys_of(request)), request.keyed):
                self._name(request.blocks[i], (request.number, i))
        plain = []
        for i in reversed(range(len(request.blocks))):
            block = request.blocks[i]
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if i < request.keyed:
                self._queue[block] = None
            else:
                plain.append(block)
        for block in reversed(plain):
            self._queue[block] = None
            self._queue.move_to_end(block, last=False)
        request.blocks.clear()
        request.keyed = request.room = 0
        if request.finished:
            self._prompt_keys.pop(request, None)

    def room_for(self, growth: Iterable[tuple[Request, int]]) -> bool:
        needed = sum(max(self._needed(tokens) - len(request.blocks), 0) for request, tokens in growth)
        return needed <= len(self._queue)

    @property
    def free(self) -> int:
        """Blocks nobody holds."""
        return len(self._queue)

    @property
    def used_share(self) -> float:
        return 1.0 - len(self._queue) / self._count

    def _needed(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _take(self) -> int:
        block, _ = self._queue.popitem(last=False)
        self._holders[block] = 1
        key = self._key_of.pop(block, None)
        if key is not None:
            same = self._by_key[key]
            del same[block]
            if not same:
                del self._by_key[key]
        return block

    def _name(self, block: int, key: Hashable) -> None:
        """What a block holds, with all before it: a prefix of shared texts, or a part of one request alone."""
        self._key_of[block] = key
        self._by_key.setdefault(key, {})[block] = None

    def _keys_of(self, request: Request) -> list[Hashable]:
        """Of the blocks that other prompts may begin with."""
        if not request.segments:
            return []
        keys = self._prompt_keys.get(request)
        if keys is None:
            keys = self._prompt_keys[request] = prefix_keys(request.segments, self.block_size)
        return keys


def prefix_keys(segments: Sequence[tuple[int, int]], block_size: int) -> list[Hashable]:
    """A key for each full block of a prompt, equal where prompts begin with the same texts up to its end."""
    keys: list[Hashable] = []
    before: Hashable = ()
    inside: list[tuple[int, int, int]] = []
    filled = 0
    for text, length in segments:
        start = 0
        while start < length:
            taken = min(length - start, block_size - filled)
            inside.append((text, start, taken))
            start, filled = start + taken, filled + taken
            if filled == block_size:
                before = hash((before, tuple(inside)))
                keys.append(before)
                inside, filled = [], 0
    return keys
