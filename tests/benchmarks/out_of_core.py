"""Work on features that lie in a file: what it takes of memory and of time.

    python tests/benchmarks/out_of_core.py encode [--rows 5000000] [--dims 128] [--rounds 3]
    python tests/benchmarks/out_of_core.py fit [--rows 1000000] [--dims 256] [--tags 5000]
    python tests/benchmarks/out_of_core.py search [--rows 20000000] [--dims 64] [--parts 8]
    python tests/benchmarks/out_of_core.py dask [--rows 200000] [--dims 128] [--rounds 3]

``encode`` writes the codes of a memory map by ``encode_to``, in a process of its own that tells its
peak above the start, and alternates parts of it with ``encode`` of the same rows in memory. ``fit``
fits a quantizer to a memory map, and another one to a sample of 100,000 of its rows, each in a
process of its own, and compares their mAP on rows that neither has seen. ``search`` looks for the
ten best of 1,000, 100 and one queries in an index of all codes and in partitions, in this process
or by worker processes, in turns; ``dask`` encodes by one worker process and by two, in turns. The
load is printed.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

N_LATER = 20_000  # rows that no fit sees, of which the first thousand are queries
N_SAMPLE = 100_000


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """Resident memory above the start, looked at every 20 ms."""

    def __enter__(self):
        self.start, self.most, self._ends = resident(), resident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self):
        while not self._ends.wait(0.02):
            self.most = max(self.most, resident())

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()
        self.megabytes = (self.most - self.start) / 1e6


def problem(rng, n_rows, centers, of_tags):
    """Rows of topics with noise, and their topics."""
    topic = rng.integers(0, len(centers), n_rows)
    noise = rng.standard_normal((n_rows, centers.shape[1]), dtype=np.float32)
    return (centers[topic] + of_tags * noise).astype(np.float32), topic


def write_rows(path, n_rows, n_dims, n_topics, noise, seed=0):
    """Write rows to a .npy file, block by block; return their topics."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((n_topics, n_dims)).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, n_dims))
    topics = np.empty(n_rows, np.int64)
    for start in range(0, n_rows, 50_000):
        stop = min(start + 50_000, n_rows)
        out[start:stop], topics[start:stop] = problem(rng, stop - start, centers, noise)
    out.flush()
    return topics


def small_model(X):
    from skwsdhq import WSDHQuantizer

    return WSDHQuantizer("passthrough", random_state=0).fit(np.array(X[:20_000]))


def encode_whole(folder):
    """In a process of its own: peak and seconds of encode_to."""
    import pickle

    with open(os.path.join(folder, "model"), "rb") as file:
        model = pickle.load(file)
    X = np.load(os.path.join(folder, "X.npy"), mmap_mode="r")
    model.encode(np.array(X[:20_000]))
    with Peak() as peak:
        start = time.perf_counter()
        model.encode_to(X, os.path.join(folder, "codes.npy"))
        seconds = time.perf_counter() - start
    print(json.dumps({"megabytes": peak.megabytes, "seconds": seconds}))


def encode(arguments, folder):
    import pickle

    write_rows(os.path.join(folder, "X.npy"), arguments.rows, arguments.dims, 2000, 1.0)
    X = np.load(os.path.join(folder, "X.npy"), mmap_mode="r")
    model = small_model(X)
    with open(os.path.join(folder, "model"), "wb") as file:
        pickle.dump(model, file)
    found = own_process("encode-whole", folder)
    print(f"encode_to: {found['megabytes']:.0f} MB above the start, {found['seconds']:.0f} s")
    print(f"{arguments.rows / found['seconds']:.0f} rows a second, load {os.getloadavg()[0]:.1f}")
    n_part = min(arguments.rows, 300_000)
    part = np.array(X[:n_part])
    ratios = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        model.encode(part)
        middle = time.perf_counter()
        model.encode_to(X[:n_part], os.path.join(folder, "part.npy"))
        ratios.append((middle - start) / (time.perf_counter() - middle))
    print(f"speed of encode_to against encode in memory, {n_part} rows: ", end="")
    print(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def tags_of(topics, n_topics, n_tags, seed):
    """Five tags a row as an indicator: three of its topic's and two of any."""
    from scipy import sparse

    rng = np.random.default_rng(seed)
    of_each = n_tags // n_topics
    own = topics[:, None] * of_each + rng.integers(0, of_each, (len(topics), 3))
    other = rng.integers(0, n_tags, (len(topics), 2))
    columns = np.hstack([own, other]).ravel()
    starts = np.arange(0, len(columns) + 1, 5)
    tags = sparse.csr_array(
        (np.ones(len(columns), np.float32), columns, starts), shape=(len(topics), n_tags)
    )
    tags.sum_duplicates()
    tags.data[:] = 1
    return tags


def fit_one(folder, which, epochs):
    """In a process of its own: peak and seconds of a fit, and its mAP on later rows."""
    from skwsdhq import HypersphereEmbedder, WSDHQuantizer
    from skwsdhq.metrics import mean_average_precision
    from skwsdhq.search import CodeIndex

    known = np.load(os.path.join(folder, "topics.npy"))
    n_topics, n_tags = (int(x) for x in np.load(os.path.join(folder, "sizes.npy")))
    X = np.load(os.path.join(folder, "X.npy"), mmap_mode="r")
    n_fitted = len(X) - N_LATER
    rows = slice(0, n_fitted) if which == "all" else slice(0, min(N_SAMPLE, n_fitted))
    tags = tags_of(known, n_topics, n_tags, 3)
    weights = {"kernel_weight": 1} if not epochs else {"max_iter": epochs}
    model = WSDHQuantizer(HypersphereEmbedder(random_state=0, **weights), random_state=0)
    given = X[rows] if which == "all" else np.array(X[rows])
    WSDHQuantizer(HypersphereEmbedder(kernel_weight=1), n_codewords=16).fit(
        np.array(X[:500]), tags[:500]
    )  # what loads at the first fit
    with Peak() as peak:
        start = time.perf_counter()
        cpu = time.process_time()
        model.fit(given, tags[rows])
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    later = np.array(X[n_fitted:])
    index = CodeIndex(model.codebooks_, model.encode(later))
    queries = model.transform(later[:1000])
    labels = known[n_fitted:]
    score = mean_average_precision(queries, index, labels[:1000], labels)
    whole = (peak.start + peak.megabytes * 1e6) / 1e6
    told = {
        "seconds": seconds,
        "cpu": cpu,
        "megabytes": peak.megabytes,
        "whole": whole,
        "mAP": score,
    }
    print(json.dumps(told))


def fit(arguments, folder):
    n_topics = 500
    n_rows = arguments.rows + N_LATER
    path = os.path.join(folder, "X.npy")
    known = write_rows(path, n_rows, arguments.dims, n_topics, arguments.noise)
    np.save(os.path.join(folder, "topics.npy"), known)
    np.save(os.path.join(folder, "sizes.npy"), [n_topics, arguments.tags])
    for which in ("all", "sample"):
        found = own_process("fit-one", folder, which, str(arguments.epochs))
        print(
            f"{which}: {found['seconds']:.0f} s ({found['cpu']:.0f} of a core), "
            f"{found['megabytes']:.0f} MB above the start, "
            f"{found['whole']:.0f} MB in all, mAP of later rows {found['mAP']:.4f}, "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def search(arguments, folder):
    import dask.array as da
    import distributed

    from skwsdhq.dask import PartitionedIndex
    from skwsdhq.search import CodeIndex

    write_rows(os.path.join(folder, "X.npy"), 200_000, arguments.dims, 2000, 0.5)
    X = np.load(os.path.join(folder, "X.npy"))
    model = small_model(X)
    rng = np.random.default_rng(0)
    # Codes of real rows, a codeword of each drawn anew.
    codes = model.encode(X)[rng.integers(0, len(X), arguments.rows)]
    where = rng.integers(0, codes.shape[1], len(codes))
    codes[np.arange(len(codes)), where] = rng.integers(0, 256, len(codes))
    one = CodeIndex(model.codebooks_, codes)
    step = -(-len(codes) // arguments.parts)
    lazily = da.from_array(codes, chunks=(step, -1))
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0"}
    with contextlib.ExitStack() as stack:
        if arguments.workers:
            cluster = distributed.LocalCluster(n_workers=arguments.workers, **options)
            stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        parts = PartitionedIndex(model.codebooks_, lazily)
        for n_queries in (1000, 100, 1):
            ratios, seconds = [], []
            for i in range(arguments.rounds + 1):
                some = rng.integers(0, len(X), n_queries)
                queries = model.transform(X[some])
                start = time.perf_counter()
                expected = one.search(queries, 10)
                middle = time.perf_counter()
                found = parts.search(queries, 10)
                end = time.perf_counter()
                assert all((a == b).all() for a, b in zip(found, expected, strict=True))
                if i:  # the first one prepares
                    ratios.append((end - middle) / (middle - start))
                    seconds.append(middle - start)
            print(
                f"{n_queries} queries, {arguments.rows} codes: one index "
                f"{1e3 * statistics.median(seconds):.0f} ms; {arguments.parts} partitions take "
                f"{statistics.median(ratios):.2f} times as long ({min(ratios):.2f} to "
                f"{max(ratios):.2f}), equal results, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def by_dask(arguments, folder):
    import dask.array as da
    import distributed

    from skwsdhq.dask import encode

    path = os.path.join(folder, "X.npy")
    write_rows(path, 20_000, arguments.dims, 2000, 1.0)
    model = small_model(np.load(path))
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0"}
    rates: dict[int, list[float]] = {1: [], 2: []}
    clusters = {n: distributed.LocalCluster(n_workers=n, **options) for n in rates}
    for i in range(arguments.rounds + 1):
        for n, cluster in clusters.items():
            with distributed.Client(cluster):
                shape, chunks = (arguments.rows, arguments.dims), (10_000, -1)
                X = da.random.default_rng(0).standard_normal(shape, chunks=chunks)
                X = X.astype(np.float32).persist()
                distributed.wait(X)
                start = time.perf_counter()
                encode(model, X).compute()
                if i:  # the first one loads
                    rates[n].append(arguments.rows / (time.perf_counter() - start))
    for cluster in clusters.values():
        cluster.close()
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    for n, found in rates.items():
        print(f"{n} workers: {statistics.median(found):.0f} rows a second")
    print(
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), ", end=""
    )
    print(f"load {os.getloadavg()[0]:.1f}")


def own_process(*arguments):
    result = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def main():
    if sys.argv[1:2] == ["encode-whole"]:
        return encode_whole(sys.argv[2])
    if sys.argv[1:2] == ["fit-one"]:
        return fit_one(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["encode", "fit", "search", "dask"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dims", type=int)
    parser.add_argument("--tags", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=0, help="0 searches in one process")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.0)
    parser.add_argument("--epochs", type=int, default=0, help="0 is the kernel regression alone")
    arguments = parser.parse_args()
    work, rows, dims = {
        "encode": (encode, 5_000_000, 128),
        "fit": (fit, 1_000_000, 256),
        "search": (search, 20_000_000, 64),
        "dask": (by_dask, 200_000, 128),
    }[arguments.what]
    arguments.rows, arguments.dims = arguments.rows or rows, arguments.dims or dims
    with tempfile.TemporaryDirectory() as folder:
        work(arguments, folder)
    return None


if __name__ == "__main__":
    main()
