"""The peak of a fresh process's resident memory."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Of this process since it started its program, in bytes.

    Not getrusage on Linux: that reports the peak of the process it was forked from, if higher.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024
