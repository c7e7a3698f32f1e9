"""Threads that wait for others spin 2000 times and then sleep; PyTorch's on Linux would spin far longer.

Beside programs that compute, spinning takes the core that the others need, and takes many times as long; never to
spin costs an idle machine two thirds more, as each wait of a small network begins and ends with the kernel. It counts
only if it is said before torch is imported. Whoever says otherwise is heard.
"""

import os

SPINS = "2000"  # docs/PERFORMANCE.md has the measurements

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
