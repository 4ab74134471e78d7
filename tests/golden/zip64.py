#!/usr/bin/env python3
"""zip64.py OUT SIZE_GIB: write a checkpoint larger than 4 GiB with the real torch (not committed).

The biggest storage itself is larger than 4 GiB when SIZE_GIB > 4.5, and small
tensors lie before and after it, so all three zip64 situations occur: a record
whose size, a record whose local header offset, and a central directory whose
offset needs 64 bits. Prints SHA-256 of each storage so a reader can compare.
"""
import hashlib
import sys

import torch


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    out, gib = sys.argv[1], float(sys.argv[2])
    big = int(gib * 2**30) - 2**20
    t = torch.zeros(big, dtype=torch.uint8)
    # A cheap pattern that is not constant: a 64-bit counter every 4 KiB.
    n = big // 4096
    t[: n * 4096].view(torch.int64).view(n, 512)[:, 0] = torch.arange(n)
    state = {
        "first": torch.arange(10, dtype=torch.float32),
        "big": t,
        "after": torch.arange(7, dtype=torch.int64),
        "last": torch.full((3, 3), 0.5, dtype=torch.float64),
        "iteration": 7,
    }
    torch.save(state, out)
    for k, v in state.items():
        if isinstance(v, torch.Tensor):
            h = hashlib.sha256(memoryview(v.flatten().view(torch.uint8).numpy())).hexdigest()
            print(k, v.numel() * v.element_size(), h)


if __name__ == "__main__":
    main()
