"""One thread to each of pytest-xdist's workers: two workers of two threads on two cores slow one another down."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the commands that tests start

    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
