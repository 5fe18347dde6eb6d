"""What docs/top.svg and docs/map.png show: a process that discards and touches pages of its own, and asks for one compaction."""

import mmap
import random
import time

PAGE = 4096


def mapped(mib, advice):
    """Private anonymous memory, every page of it touched."""
    memory = mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    for page in range(0, len(memory), PAGE):
        memory[page] = 1
    return memory


random.seed(1)
small = [bytearray(3000 + i % 5000) for i in range(20_000)]
quiet = mapped(128, mmap.MADV_HUGEPAGE)
busy = mapped(117, mmap.MADV_NOHUGEPAGE)
start, compacted = time.monotonic(), False
while True:
    for _ in range(random.randint(20, 120)):
        page = random.randrange(len(busy) // PAGE) * PAGE
        busy.madvise(mmap.MADV_DONTNEED, page, PAGE)
        busy[page] = 1
    if not compacted and time.monotonic() - start > 15:
        compacted = True
        with open("/proc/sys/vm/compact_memory", "w") as compact:
            compact.write("1")
    time.sleep(random.choice([0.1, 0.2, 0.4]))
