"""The process of a worker: its threads, its device, the memory that it takes."""

from __future__ import annotations

import os


def prepare_torch(threads: int) -> str:
    """Sets the number of threads and names the device that this worker was given."""
    import torch

    torch.set_num_threads(threads)
    # The first optimiser of a process imports PyTorch's compiler, which takes two seconds: not in a trial's time.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return "cuda" if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" else "cpu"


def reset_peak_memory() -> None:
    """Starts the peak anew where the kernel allows it (Linux); workers outlive trials."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak_memory_mb() -> float:
    """Peak resident memory of this process since `reset_peak_memory`, in MB (2**20 bytes)."""
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
