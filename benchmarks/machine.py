"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

# On them the speed of int8 and bfloat16 hangs more than on the clock.
TOLD = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


def machine() -> str:
    """Architecture, cores that may be used, and, where the system tells them, the instructions that count."""
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info.read_text() if info.exists() else "", re.MULTILINE)
    there = set(flags[1].split()) if flags else set()
    found = " ".join(name for name in TOLD if name in there)
    return ", ".join(filter(None, [platform.machine(), f"{len(os.sched_getaffinity(0))} cores", found]))
