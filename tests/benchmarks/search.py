"""Search over codes against faiss: one thread, ratios of CPU time.

    python tests/benchmarks/search.py [--quick] [--json FILE]    the table
    python tests/benchmarks/search.py --stages                   recall against cost of short cuts
    python tests/benchmarks/search.py --inverted [ROWS]          inverted files of 10,000,000 rows
    python tests/benchmarks/search.py --plot FILE.png            how cost grows with rows and bits
    python tests/benchmarks/search.py --bounded [ROWS]           bounds against scans and FastScan

Recall against time, beside graphs and embeddings that rank again: ``search_front.py``.
Both sides hold the same codebooks and codes. Every run times them in turn; the ratio is the median
over runs of the ratio within a run. In the same run rankings are compared with the numpy engine's,
to the last bit, and with faiss's, up to the rounding of its sums.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import platform
import resource
import tempfile
import time

import faiss
import numpy as np
import torch

from skwsdhq.codebooks import encode, learn_codebooks
from skwsdhq.search import CodeIndex, InvertedCodeIndex

N_DIMS = 300
ONE_BY_ONE = 64  # queries asked one after the other
# rows, bits, k, ratio to faiss's additive index that is asked for
TABLE = [
    (1_000_000, 8, 10, 100),
    (1_000_000, 16, 10, 12),
    (100_000, 16, 100, 2),
    (1_000_000, 32, 10, 2.3),
    (1_000_000, 32, 100, 2.3),
    (1_000_000, 32, 5000, 1.6),
    (100_000, 32, 5000, None),
    (1_000_000, 64, 10, None),
]


def make_embeddings(n, seed, n_dims=N_DIMS):
    """Unit vectors that mix two or three of 200 concepts, with noise."""
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(0).standard_normal((200, n_dims)).astype("f4")
    weights = rng.random((n, 3)).astype("f4")
    chosen = (200 * rng.random((n, 3)) ** 2).astype(int)
    vectors = rng.standard_normal((n, n_dims), dtype="f4")
    for j in range(3):
        vectors += 2 * weights[:, j, None] * concepts[chosen[:, j]]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_codes(n, n_codebooks):
    """Residual codebooks trained on some of the rows, and the codes of all."""
    quantizer = faiss.ResidualQuantizer(N_DIMS, n_codebooks, 8)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 1
    quantizer.train(make_embeddings(20_000, 1))
    codebooks = faiss.vector_to_array(quantizer.codebooks).reshape(n_codebooks, 256, N_DIMS)
    codes = [
        quantizer.compute_codes(make_embeddings(min(20_000, n - start), 2 + start))
        for start in range(0, n, 20_000)
    ]
    return codebooks, np.concatenate(codes)


def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(rivals, runs):
    """Times of each rival in alternating runs; rivals are (name, number of queries, call)."""
    times = {name: [] for name, _, _ in rivals}
    for _, _, call in rivals:
        call()  # engines are built, memory is warm
    for _ in range(runs):
        for name, count, call in rivals:
            times[name].append(seconds(call) / count)
    return times


def check_exact(index, additive, queries, k):
    """Share of places where faiss has another row of the same similarity; errors where not."""
    plain = CodeIndex(index.codebooks, index.codes, engine="numpy")
    for some in (queries[:1], queries):
        similarities, rows = index.search(some, k)
        expected = plain.search(some, k)
        assert np.array_equal(rows, expected[1]), "not the reference's rows"
        assert np.array_equal(similarities, expected[0]), "not the reference's similarities"
    theirs, other = additive.search(queries, k)
    assert np.allclose(theirs, similarities, rtol=1e-4, atol=1e-5), "not faiss's similarities"
    return float((other != rows).mean())


def run_table(quick, runs):
    codebooks, codes = make_codes(100_000 if quick else 1_000_000, 8)
    queries = make_embeddings(512, 0)
    results = []
    for n, bits, k, goal in TABLE:
        if n > len(codes):
            continue
        n_codebooks = bits // 8
        index = CodeIndex(codebooks[:n_codebooks], codes[:n, :n_codebooks])
        additive, product = index.to_faiss("additive"), index.to_faiss("product")
        few = 16 if n > 100_000 else 64
        tiled = np.tile(queries, (1, n_codebooks))
        rivals = [
            ("faiss additive", few, lambda a=additive, f=few, k=k: a.search(queries[:f], k)),
            ("faiss product", few, lambda p=product, t=tiled, f=few, k=k: p.search(t[:f], k)),
            ("skwsdhq", 512, lambda i=index, k=k: i.search(queries, k)),
            (
                "faiss additive, 1 query",
                ONE_BY_ONE,
                lambda a=additive, k=k: one_by_one(a, k, queries),
            ),
            ("skwsdhq, 1 query", ONE_BY_ONE, lambda i=index, k=k: one_by_one(i, k, queries)),
        ]
        times = compare(rivals, runs)
        differing = check_exact(index, additive, queries[:few], k)
        ratios = np.array(times["faiss additive"]) / times["skwsdhq"]
        single = np.array(times["faiss additive, 1 query"]) / times["skwsdhq, 1 query"]
        results.append(
            {
                "rows": n,
                "bits": bits,
                "k": k,
                "goal": goal,
                "ratio": float(np.median(ratios)),
                "lowest": float(ratios.min()),
                "highest": float(ratios.max()),
                "ratio_one_query": float(np.median(single)),
                "ratio_product": float(
                    np.median(np.array(times["faiss product"]) / times["skwsdhq"])
                ),
                "queries_per_second": {name: 1 / float(np.median(t)) for name, t in times.items()},
                "faiss_other_row": differing,
            }
        )
        last = results[-1]
        print(
            f"{n:9,} rows  {bits:2} bits  k {k:4}  {last['ratio']:7.1f} × additive "
            f"({last['lowest']:.1f} – {last['highest']:.1f}; asked {goal or '–'})  "
            f"{last['ratio_product']:6.1f} × product  one query at a time "
            f"{last['ratio_one_query']:5.1f} ×  "
            f"{last['queries_per_second']['skwsdhq']:8.0f} queries/s  exact; faiss orders "
            f"{100 * differing:.2f} % of places otherwise",
            flush=True,
        )
    return results


def one_by_one(index, k, queries):
    for q in range(ONE_BY_ONE):
        index.search(queries[q : q + 1], k)


def run_stages(quick, runs):
    """Recall of short cuts against their cost: fewer codebooks first, and an inverted file.

    Recall of the ten nearest by whole codes, and of the ten nearest by exact embeddings.
    """
    n, k = (100_000 if quick else 1_000_000), 10
    codebooks, codes = make_codes(n, 8)
    queries = make_embeddings(256, 0)
    best = np.full((256, k), -np.inf, dtype="f4")
    nearest = np.zeros((256, k), dtype=np.int64)
    for start in range(0, n, 20_000):
        scores = np.hstack([best, queries @ make_embeddings(20_000, 2 + start).T])
        rows = np.hstack([nearest, np.tile(np.arange(start, start + 20_000), (256, 1))])
        top = np.argpartition(-scores, k, axis=1)[:, :k]
        best, nearest = (np.take_along_axis(x, top, axis=1) for x in (scores, rows))
    for n_codebooks in (4, 8):
        index = CodeIndex(codebooks[:n_codebooks], codes[:, :n_codebooks])
        start = time.process_time()
        inverted = InvertedCodeIndex(index, random_state=0)
        built = time.process_time() - start
        calls = {"exhaustive": lambda q, i=index: i.search(q, k)}
        for prefix in (1, 2, 4):
            for shortlist in (100, 1000, 5000):
                if prefix < n_codebooks:
                    calls[f"{prefix} codebooks, shortlist {shortlist}"] = (
                        lambda q, i=index, p=prefix, s=shortlist: i.search(
                            q, k, n_codebooks=p, shortlist=s
                        )
                    )
        for n_probe in (1, 4, 16, 64, 256):
            calls[f"inverted, {n_probe} of {len(inverted.sizes)} lists"] = (
                lambda q, i=inverted, p=n_probe: i.search(q, k, n_probe=p)
            )
        rivals = [(name, 256, lambda c=call: c(queries)) for name, call in calls.items()]
        rivals += [
            (f"{name}, 1 query", 8, lambda c=call: [c(queries[j : j + 1]) for j in range(8)])
            for name, call in calls.items()
        ]
        times = {name: 1e3 * np.median(t) for name, t in compare(rivals, runs).items()}
        whole = index.search(queries, k)[1]
        print(f"{n:,} rows, {8 * n_codebooks} bits, k {k}; lists built in {built:.0f} s")
        for name, call in calls.items():
            found = call(queries)[1]
            by_code, exact = (
                np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])
                for truth in (whole, nearest)
            )
            print(
                f"  {name:32} {times[name]:7.3f} ms/query of 256, "
                f"{times[name + ', 1 query']:7.3f} of 1   recall of codes {by_code:.3f}, "
                f"of embeddings {exact:.3f}",
                flush=True,
            )


def run_inverted(n, runs, n_dims=96, n_codebooks=4, n_lists=4096, n_queries=128, k=10):
    """Recall and cost of lists whose codes stand for vectors, or for what a list's center leaves.

    Both have the same lists, by exact embeddings, which also rank the first 100 again.
    """
    started = time.process_time()
    step = 20_000
    with tempfile.TemporaryDirectory() as folder:
        vectors = np.memmap(f"{folder}/vectors", dtype="f2", mode="w+", shape=(n, n_dims))
        queries = make_embeddings(n_queries, 0, n_dims)
        best = np.full((n_queries, k), -np.inf, dtype="f4")
        nearest = np.zeros((n_queries, k), dtype=np.int64)
        for start in range(0, n, step):
            rows = make_embeddings(min(step, n - start), 2 + start, n_dims)
            vectors[start : start + step] = rows
            scores = np.hstack([best, queries @ rows.T])
            numbers = np.arange(start, start + len(rows))
            numbers = np.hstack([nearest, np.tile(numbers, (n_queries, 1))])
            top = np.argpartition(-scores, k, axis=1)[:, :k]
            best, nearest = (np.take_along_axis(x, top, axis=1) for x in (scores, numbers))
        print(f"{n:,} rows of {n_dims} dimensions made in {time.process_time() - started:.0f} s")

        started = time.process_time()
        some = make_embeddings(100_000, 1, n_dims)
        codebooks, _ = learn_codebooks(some, n_codebooks, 256, random_state=0)
        codes = np.empty((n, n_codebooks), np.uint8)
        for start in range(0, n, step):
            rows = np.asarray(vectors[start : start + step], dtype="f4")
            codes[start : start + step] = encode(rows, codebooks, random_state=0)
        index = CodeIndex(codebooks, codes)
        print(f"codes in {time.process_time() - started:.0f} s", flush=True)
        inverted = {}
        for kind in ("vectors", "residuals"):
            started = time.process_time()
            inverted[kind] = InvertedCodeIndex(
                index, n_lists, vectors=vectors, residuals=kind == "residuals", random_state=0
            )
            print(f"{inverted[kind]} in {time.process_time() - started:.0f} s", flush=True)

        calls = {"exhaustive": lambda q: index.search(q, k)[1]}
        for n_probe in (1, 4, 16, 64, 256):
            for kind, lists in inverted.items():
                name = f"{n_probe} of {n_lists} lists, {kind}"
                calls[name] = lambda q, i=lists, p=n_probe: i.search(q, k, n_probe=p)[1]
                calls[f"{name}, ranked again"] = lambda q, i=lists, p=n_probe: i.search(
                    q, k, n_probe=p, vectors=vectors, shortlist=100
                )[1]
        rivals = [(name, n_queries, lambda c=call: c(queries)) for name, call in calls.items()]
        times = {name: 1e3 * np.median(t) for name, t in compare(rivals, runs).items()}
        whole = calls["exhaustive"](queries)
        for name, call in calls.items():
            by_code, exact = (
                np.mean([np.isin(t, f).mean() for t, f in zip(truth, call(queries), strict=True)])
                for truth in (whole, nearest)
            )
            print(
                f"  {name:40} {times[name]:8.3f} ms/query   recall of codes {by_code:.3f}, "
                f"of embeddings {exact:.3f}",
                flush=True,
            )


def run_plot(path, runs):
    """Milliseconds a query against rows and against bits, k = 10."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n_dims = 96  # which all numbers of codebooks divide
    rng = np.random.default_rng(0)
    codebooks = rng.standard_normal((8, 256, n_dims)).astype("f4")
    queries = rng.standard_normal((256, n_dims)).astype("f4")

    def measure(n, n_codebooks, with_flat):
        codes = rng.integers(0, 256, (n, n_codebooks), dtype=np.uint8)
        index = CodeIndex(codebooks[:n_codebooks], codes)
        plain = faiss.IndexPQ(n_dims, n_codebooks, 8, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(
            rng.standard_normal(256 * n_dims).astype("f4"), plain.pq.centroids
        )
        plain.is_trained = True
        plain.add_sa_codes(codes)
        few = int(np.clip(2e7 // n, 2, 64))
        rivals = [
            ("skwsdhq, 256 queries", 256, lambda: index.search(queries, 10)),
            ("skwsdhq, 1 query", few, lambda: [index.search(queries[:1], 10) for _ in range(few)]),
            ("faiss IndexPQ", few, lambda: plain.search(queries[:few], 10)),
        ]
        if with_flat:
            flat = faiss.IndexFlatIP(n_dims)
            flat.add(rng.standard_normal((n, n_dims)).astype("f4"))
            rivals.append(("faiss IndexFlatIP", 256, lambda: flat.search(queries, 10)))
        return {name: float(1e3 * np.median(t)) for name, t in compare(rivals, runs).items()}

    sizes = [10**4, 10**5, 10**6, 10**7]
    by_rows = {bits: [measure(n, bits // 8, n <= 10**6) for n in sizes] for bits in (16, 32)}
    lengths = [8, 16, 24, 32, 48, 64]
    by_bits = [measure(10**6, bits // 8, bits == 32) for bits in lengths]
    colors = {
        "skwsdhq, 256 queries": "C0",
        "skwsdhq, 1 query": "C1",
        "faiss IndexPQ": "C2",
        "faiss IndexFlatIP": "C3",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for bits, style in ((16, "--"), (32, "-")):
        for name, color in colors.items():
            points = [(n, t[name]) for n, t in zip(sizes, by_rows[bits], strict=True) if name in t]
            label = f"{name}" + ("" if "Flat" in name else f", {bits} bits")
            if "Flat" in name and bits == 16:
                continue
            axes[0].loglog(*zip(*points, strict=True), style, color=color, marker="o", label=label)
    axes[0].set(xlabel="rows", ylabel="milliseconds a query, k = 10, one thread")
    for name, color in colors.items():
        points = [(b, t[name]) for b, t in zip(lengths, by_bits, strict=True) if name in t]
        axes[1].semilogy(*zip(*points, strict=True), color=color, marker="o", label=name)
    axes[1].set(xlabel="bits of a code, 1,000,000 rows", xticks=lengths)
    axes[0].legend(fontsize="x-small")
    axes[1].legend(fontsize="x-small", loc="lower right")
    figure.savefig(path, dpi=120)
    for bits in by_rows:
        for n, figures in zip(sizes, by_rows[bits], strict=True):
            print(bits, "bits", n, "rows", {name: round(t, 4) for name, t in figures.items()})
    for bits, figures in zip(lengths, by_bits, strict=True):
        print(bits, "bits", 10**6, "rows", {name: round(t, 4) for name, t in figures.items()})


# rows, codebooks, k of each, and milliseconds a query that are asked for, one at a time
BOUNDED = [
    (10_000, 4, {10: 0.02, 100: None, 1000: None}),
    (100_000, 4, {10: 0.03, 100: None, 1000: None}),
    (1_000_000, 4, {10: 0.04, 100: 0.08, 1000: 0.25}),
    (1_000_000, 8, {10: 0.10, 100: 0.25, 1000: None}),
    (10_000_000, 4, {10: 0.07, 100: 0.13, 1000: None}),
]


def make_clustered(rng, count):
    """Unit vectors of 96 dimensions near 500 centres."""
    centres = np.random.default_rng(0).standard_normal((500, 96)).astype("f4")
    near = centres[rng.integers(500, size=count)]
    rows = near + 0.7 * rng.standard_normal((count, 96), dtype="f4")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run_bounded(limit, runs):
    """Milliseconds a query of searches by bounds, of scans of all rows, and of faiss.

    Codes are learned as the quantizer does, of clustered vectors of 96 dimensions, or random.
    faiss has codes of its own, as many bytes a row: FastScan of 16 codewords, IndexPQ of 256.
    """
    rng = np.random.default_rng(0)
    queries = make_clustered(rng, ONE_BY_ONE)
    for n_codebooks in (4, 8):
        sizes = [size for size in BOUNDED if size[1] == n_codebooks and size[0] <= limit]
        n_most = max((size[0] for size in sizes), default=0)
        if not sizes:
            continue
        some = make_clustered(rng, 20_000)
        codebooks, _ = learn_codebooks(
            some, n_codebooks, 256, n_iter=6, prefix_weight=0.1, random_state=0
        )
        fast = faiss.IndexPQFastScan(96, 2 * n_codebooks, 4, faiss.METRIC_INNER_PRODUCT)
        plain = faiss.IndexPQ(96, n_codebooks, 8, faiss.METRIC_INNER_PRODUCT)
        fast.train(some)
        plain.train(some)
        codes = np.empty((n_most, n_codebooks), np.uint8)
        done = 0
        for n, _, goals in sizes:
            while done < n:
                rows = make_clustered(rng, min(50_000, n - done))
                codes[done : done + len(rows)] = encode(rows, codebooks, prefix_weight=0.1)
                fast.add(rows)
                plain.add(rows)
                done += len(rows)
            theirs = {"FastScan": fast} | ({"IndexPQ": plain} if n <= 1_000_000 else {})
            compare_bounded("learned", codebooks, codes[:n], queries, goals, theirs, runs)
            if n <= 1_000_000:
                random = rng.integers(0, 256, (n, n_codebooks), dtype=np.uint8)
                words = rng.standard_normal(codebooks.shape, dtype="f4")
                compare_bounded("random", words, random, queries, goals, {}, runs)


def compare_bounded(kind, codebooks, codes, queries, goals, theirs, runs):
    """Print a line for each k; the engines that scan all rows give the rankings to compare with."""
    one_name = "pairs" if len(codes) >= 8192 else "numpy"
    indexes = {"ours": CodeIndex(codebooks, codes)}
    if len(codes) <= 1_000_000:  # a scan of more takes minutes
        indexes |= {"scan": CodeIndex(codebooks, codes, engine="scan")}
        indexes |= {one_name: CodeIndex(codebooks, codes, engine=one_name)}
    for k, goal in goals.items():
        calls = {}
        for name, index in (indexes | theirs).items():
            one, many = one_at_a_time(index, queries, k), all_at_once(index, queries, k)
            if name != "scan":
                calls[f"{name}, one"] = one
            if name in ("ours", "scan", "FastScan"):
                calls[f"{name}, many"] = many
        found = {name: index.search(queries, k) for name, index in indexes.items()}
        found["numpy"] = CodeIndex(codebooks, codes, engine="numpy").search(queries, k)
        for similarities, rows in found.values():
            assert np.array_equal(rows, found["ours"][1]), "not one ranking"
            assert np.array_equal(similarities, found["ours"][0]), "not one ranking"
        single = [indexes["ours"].search(query[None], k)[1][0] for query in queries]
        apart = [plain_rows(codebooks, codes, query, k) for query in queries[:4]]
        assert all(np.array_equal(a, b) for a, b in zip(single, apart, strict=False))
        rivals = [(name, len(queries), call) for name, call in calls.items()]
        times = {name: 1e3 * np.median(t) for name, t in compare(rivals, runs).items()}
        figures = ", ".join(f"{name} {t:.3f}" for name, t in times.items())
        asked = f" (asked {goal})" if goal and kind == "learned" else ""
        print(
            f"{len(codes):,} x {8 * codes.shape[1]} bits, {kind}, k {k}{asked}: "
            f"ms a query: {figures}; one ranking",
            flush=True,
        )


def one_at_a_time(index, queries, k):
    return lambda: [index.search(query[None], k) for query in queries]


def all_at_once(index, queries, k):
    return lambda: index.search(queries, k)


def plain_rows(codebooks, codes, query, k):
    """The ranking of one query by the reference engine."""
    return CodeIndex(codebooks, codes, engine="numpy").search(query[None], k)[1][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100,000 rows only, 3 runs")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--stages", action="store_true", help="short cuts, instead of the table")
    parser.add_argument(
        "--inverted",
        nargs="?",
        type=int,
        const=10_000_000,
        metavar="ROWS",
        help="inverted files, instead of the table",
    )
    parser.add_argument(
        "--bounded",
        nargs="?",
        type=int,
        const=1_000_000,
        metavar="ROWS",
        help="bounds against scans and faiss up to so many rows, instead of the table",
    )
    parser.add_argument("--plot", help="picture of how cost grows, instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    print(
        f"numpy {np.__version__}, torch {torch.__version__}, faiss {faiss.__version__}, "
        f"Python {platform.python_version()}; one thread, process CPU time"
    )
    if options.plot:
        run_plot(options.plot, 3)
        return
    if options.inverted:
        run_inverted(options.inverted, 3)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")
        return
    if options.bounded:
        run_bounded(options.bounded, 5)
        return
    if options.stages:
        run_stages(options.quick, 3)
        return
    results = run_table(options.quick, 3 if options.quick else 5)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")
    if options.json:
        with open(options.json, "w") as file:
            versions = {"numpy": np.__version__, "torch": torch.__version__}
            versions |= {"faiss": faiss.__version__, "python": platform.python_version()}
            json.dump({"threads": 1, "versions": versions, "rows": results}, file, indent=1)


if __name__ == "__main__":
    main()
