"""Threads that wait for others sleep; PyTorch's on Linux would spin, on the core that the others need.

Beside programs that compute, that is many times slower. It counts only if it is said before torch is imported.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
