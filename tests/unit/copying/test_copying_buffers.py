from __future__ import annotations

from collector.copying import buffers


def test_buffers_start_at_huge_pages_and_are_lent_again() -> None:
    """Memory is allocated once in the life of a process."""
    with buffers.lease(4, 1 << 20) as first:
        addresses = [buffer.address for buffer in first]
        assert addresses[0] % buffers.HUGE == 0
        with buffers.lease(1, 4096) as other:
            assert other[0].address not in range(addresses[0], addresses[0] + buffers.POOL_BYTES)
    with buffers.lease(2, 1 << 20) as second:
        assert second[0].address == addresses[0]
