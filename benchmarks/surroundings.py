"""What every figure depends on besides the code: the date, the machine, the versions, and what was run."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("memos-mag", "torch", "transformers", "safetensors")


def surroundings(workload: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Returns date, hardware, versions and workload, as each result begins.

    Args:
        workload: What was run, with its seed.
        device: A device of torch.
    """
    import torch

    hardware = {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": platform.system(),
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "workload": workload,
    }


def processor() -> str:
    """Returns the name of the processor, as well as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
