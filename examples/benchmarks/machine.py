"""What a figure is worth nothing without: the machine, its disk, and room to work in."""

import os
import pathlib
import platform
import shutil
import statistics
import sys
import time

SYNC_MS_MAX = 0.5


def sync_ms(folder, times=500):
    """Median of writing 4 KiB into room that is already there and waiting for the disk."""
    path = pathlib.Path(folder) / "disk-test"
    try:
        with open(path, "wb+", buffering=0) as file:
            file.write(bytes(8 << 20))
            os.fsync(file.fileno())
            block, took = os.urandom(4096), []
            for turn in range(times):
                begun = time.perf_counter()
                os.pwrite(file.fileno(), block, turn % 2048 * 4096)
                os.fdatasync(file.fileno())
                took.append(time.perf_counter() - begun)
    finally:
        path.unlink(missing_ok=True)
    return statistics.median(took) * 1000


def quick_disk(folder, force):
    """The disk test's figure; ends the program where it forbids a run."""
    took = sync_ms(folder)
    if took > SYNC_MS_MAX and not force:
        sys.exit(
            f"the disk needs {took:.2f} ms for 4 KiB and fdatasync, more than {SYNC_MS_MAX} ms: figures would tell of the disk "
            "or of other work on this machine. Run at a quiet time, or with --force."
        )
    return took


def free_disk(folder, gib):
    """Ends the program where the disk has less than this free."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        sys.exit(f"{folder} has {free:.1f} GiB free; this needs {gib} GiB. --folder names another disk.")


def about():
    """The machine in one line."""
    model, memory = "unknown processor", 0
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = int(line.split()[1]) / 2**20
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, Linux {platform.release()}"
