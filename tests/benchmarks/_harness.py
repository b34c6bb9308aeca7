"""Alternating timing of rivals in one process, and their peak memory in one process each.

A benchmark is a function of a size that returns its alternatives: a dict of names and calls
without arguments, the first of which is this library's. Import this module before numpy: it sets
the number of threads.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import contextlib
import csv
import ctypes
import fcntl
import importlib.metadata
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

MIN_SECONDS = 0.1  # a call that takes less is repeated within its turn
SLOW_SECONDS = 2.0  # a call that takes more needs no warming up


def alternate(calls, n_rounds):
    """Seconds of CPU time of each call in each round: {name: [seconds, ...]}.

    Every round runs all calls in turn, so that a slow minute of the machine hits all of them.
    """
    times, repeats = {name: [] for name in calls}, {}
    for name, call in calls.items():
        seconds = _timed(call, 1)
        repeats[name] = max(1, min(100, int(MIN_SECONDS / max(seconds, 1e-6))))
        if seconds >= SLOW_SECONDS:
            times[name].append(seconds)  # what warms up is lost in it: the first round
        else:
            call()
    for i in range(n_rounds):
        for name, call in calls.items():
            if len(times[name]) <= i:
                times[name].append(_timed(call, repeats[name]))
    return times


def _timed(call, repeats):
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def ratios(times, name, base, scale=1.0):
    """Median, lowest and highest of scale · (seconds of name) / (seconds of base) in a round."""
    within = [scale * a / b for a, b in zip(times[name], times[base], strict=True)]
    return {"median": statistics.median(within), "low": min(within), "high": max(within)}


def _high_water():
    """Peak resident memory of this process so far, in bytes."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_peak(call):
    """Run a call and print by how many bytes it raises the resident memory at its peak.

    A quick call runs twice and the second counts: the first pays for libraries that load. What
    it keeps, like a table, counts."""
    _trim()
    before = _resident()
    if _timed(call, 1) < SLOW_SECONDS:
        _trim()
        try:
            with open("/proc/self/clear_refs", "w") as clear:  # Linux: forget the peak so far
                clear.write("5")
        except OSError:
            pass
        call()
    print("PEAK", max(0, _high_water() - before))


def _trim():
    """Give freed memory back, so that a call can't use what its preparation left."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident():
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _high_water()


def peak_bytes(script, *arguments):
    """What `print_peak` says in a fresh process: script --peak arguments."""
    command = [sys.executable, script, "--peak", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in result.stdout.splitlines():
        if line.startswith("PEAK"):
            return int(line.split()[1])
    raise RuntimeError(f"{command} printed no peak: {result.stdout}")


def environment(*packages):
    """Versions, processor and threads, for the head of a table and for its JSON."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next(line.split(":")[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        pass
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        **versions,
        "processor": model,
        "n_cpus": os.cpu_count(),
        "n_threads": 1,
        "clock": "process CPU time",
    }


def print_table(rows):
    """Rows of {work, against, seconds, other_seconds, ratio, asked, peak, other_peak, note}."""
    head = f"{'work':34}{'against':34}{'ours':>10}{'theirs':>10}{'ratio':>9}{'spread':>17}"
    print(head + f"{'asked':>8}{'peak MB':>16}  note")
    for row in rows:
        ratio = row["ratio"]
        spread = f"{ratio['low']:.4g}–{ratio['high']:.4g}"
        peaks = "/".join(
            "-" if row.get(key) is None else f"{row[key] / 1e6:.1f}"
            for key in ("peak", "other_peak")
        )
        asked = "" if row.get("asked") is None else f"{row['asked']:g}"
        print(
            f"{row['work']:34}{row['against']:34}{_seconds(row['seconds']):>10}"
            f"{_seconds(row['other_seconds']):>10}{ratio['median']:9.4g}{spread:>17}"
            f"{asked:>8}{peaks:>16}  {row.get('note', '')}"
        )


def _seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def write_json(path, environment, rows):
    with open(path, "w") as file:
        json.dump({"environment": environment, "rows": rows}, file, indent=1)


def read_rows(path):
    """Rows of a CSV as dictionaries; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_rows(path, rows, columns):
    """At the end of a CSV, in one write, whoever else writes at the same time."""
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, columns)
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)
