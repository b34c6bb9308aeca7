"""Loss, encoding and codebooks against naive forms, faiss and nanopq: one thread, CPU time.

    python tests/benchmarks/speed.py [--only PART ...] [--rounds N] [--quick] [--json FILE]

PART is loss, encode, update or train. Every round times all rivals of a row in turn; the ratio,
theirs to ours, is the median over rounds of the ratio within a round, and its spread the lowest
and highest. Peak memory is measured in a process for each rival. Nanopq is left out where it
isn't installed.

The naive forms are what the published code of this method computes, in torch: hinges as one
(batch, C, C) tensor; ICM that projects the differences of rows and codewords, as (batch · K, D),
on all concept vectors and squares the (batch, K, C) result. "shortcut" projects rows and codewords
before their difference, which the published code doesn't.
"""

import argparse
import functools
import importlib.util
import statistics

import _harness  # before numpy: sets the number of threads
import faiss
import numpy as np
import torch

from skwsdhq import codebooks, losses

torch.set_num_threads(1)
faiss.omp_set_num_threads(1)

N_DIMS, N_CODEWORDS = 300, 256
NAIVE_ROWS = 128  # of 20,000; time per row is what is compared


# Data


def unit_rows(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def make_vectors(kind, n):
    """Unit rows: sums of five tags of 1000 (Zipf), of tags of a topic, or clusters of clusters."""
    random = np.random.default_rng(5)
    concepts = unit_rows(random.normal(size=(1000, N_DIMS)))
    decay = 1 / np.arange(1, N_DIMS + 1) ** 0.5
    if kind == "tags":
        popularity = 1 / np.arange(1, 1001) ** 0.7
        chosen = random.choice(1000, size=(n, 5), p=popularity / popularity.sum())
        rows = concepts[chosen].sum(axis=1) / 5**0.5
        rows = rows + 0.3 / N_DIMS**0.5 * random.normal(size=(n, N_DIMS))
    elif kind == "topics":
        concepts = unit_rows(concepts * decay)
        topics = random.integers(1000, size=(100, 30))
        chosen = topics[random.integers(100, size=n)[:, None], random.integers(30, size=(n, 5))]
        rows = concepts[chosen].sum(axis=1) / 5**0.5
        noise = decay / np.linalg.norm(decay)
        rows = rows + 0.4 * noise * random.normal(size=(n, N_DIMS))
    else:
        scale = decay**0.8
        large = random.normal(size=(500, N_DIMS))[random.integers(500, size=n)]
        small = random.normal(size=(100, N_DIMS))[random.integers(100, size=n)]
        rows = scale * (large + 0.6 * small + 0.4 * random.normal(size=(n, N_DIMS)))
    return unit_rows(rows)


def make_batch(n_concepts, n_tags):
    random = np.random.default_rng(0)
    concepts = unit_rows(random.normal(size=(n_concepts, N_DIMS)))
    pairs = np.array(
        [(n, c) for n in range(256) for c in np.sort(random.permutation(n_concepts)[:n_tags])]
    ).T
    z = random.normal(size=(256, N_DIMS)) / N_DIMS**0.5
    np.add.at(z, pairs[0], concepts[pairs[1]])
    z = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    return z, torch.from_numpy(concepts), pairs


@functools.cache
def start_codebooks(n, n_codebooks):
    rows = make_vectors("tags", n)
    return codebooks.init_codebooks(rows, n_codebooks, N_CODEWORDS, random_state=0)


# Alternatives


def naive_loss(z, concepts, indicator):
    x = torch.nn.functional.normalize(z)
    similarities = x @ concepts.T
    margin = 1 - concepts @ concepts.T
    hinges = margin[None] - similarities[:, :, None] + similarities[:, None, :]
    mask = indicator[:, :, None] * (1 - indicator)[:, None, :]
    return (hinges.clamp(min=0) * mask).sum() / mask.sum()


def loss_calls(n_concepts, n_tags):
    z, concepts, pairs = make_batch(n_concepts, n_tags)
    indicator = torch.zeros(256, n_concepts)
    indicator[pairs[0], pairs[1]] = 1

    def with_gradient(loss):
        z.grad = None
        value = loss()
        value.backward()
        return value.item()

    def products():
        with torch.no_grad():
            return (z @ concepts.T) @ concepts

    calls = {
        "ours": lambda: with_gradient(lambda: losses.cosine_margin_loss(z, concepts, pairs)),
        "two torch products": products,
    }
    if n_concepts < 2000:
        calls["naive (batch, C, C)"] = lambda: with_gradient(
            lambda: naive_loss(z, concepts, indicator)
        )
    return calls


def naive_icm(rows, start, words, orders, concepts, shortcut):
    z, words, concepts = map(torch.from_numpy, (rows, words, concepts))
    codes = torch.from_numpy(start.T.astype(np.int64))
    rest = z - sum(words[m][codes[m]] for m in range(len(words)))
    for order in orders:
        for m in order:
            rest += words[m][codes[m]]
            if shortcut:
                projected = (rest @ concepts.T)[:, None] - (words[m] @ concepts.T)[None]
            else:
                projected = (rest[:, None] - words[m][None]) @ concepts.T  # (batch, K, C)
            codes[m] = projected.square().sum(dim=2).argmin(dim=1)
            rest -= words[m][codes[m]]
    return codes.T.numpy()


def encode_calls(n, n_codebooks):
    rows, words = make_vectors("tags", n), start_codebooks(n, n_codebooks)
    concepts = unit_rows(np.random.default_rng(1).normal(size=(1178, N_DIMS)))
    metric = concepts.T.astype(np.float64) @ concepts
    few = rows[:NAIVE_ROWS]
    start = codebooks.encode(few, words, metric=metric, n_sweeps=0)
    random = np.random.RandomState(0)
    orders = [random.permutation(n_codebooks) for _ in range(3)]
    quantizer = faiss.ResidualQuantizer(N_DIMS, n_codebooks, 8)
    quantizer.max_beam_size = 1
    faiss.copy_array_to_vector(words.ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    quantizer.compute_codebook_tables()
    by_table = faiss.ResidualQuantizer(N_DIMS, n_codebooks, 8)
    by_table.max_beam_size, by_table.use_beam_LUT = 1, 1
    faiss.copy_array_to_vector(words.ravel(), by_table.codebooks)
    by_table.is_trained = True
    by_table.compute_codebook_tables()
    naive = functools.partial(naive_icm, few, start, words, orders, concepts)
    calls = {
        "ours in the metric": lambda: codebooks.encode(rows, words, metric=metric, random_state=0),
        "ours": lambda: codebooks.encode(rows, words, random_state=0),
        "ours, beam 4": lambda: codebooks.encode(rows, words, beam_size=4, random_state=0),
        "naive (batch, K, C)": lambda: naive(False),
        "naive, shortcut": lambda: naive(True),
        "faiss RQ beam 1": lambda: quantizer.compute_codes(rows),
        "faiss RQ beam 1, tables": lambda: by_table.compute_codes(rows),
        "one product": lambda: rows @ words.reshape(-1, N_DIMS).T,
    }
    return calls


def dense_update(rows, codes):
    n, n_codebooks = codes.shape
    one_hot = torch.zeros(n, n_codebooks * N_CODEWORDS)
    for m in range(n_codebooks):
        columns = m * N_CODEWORDS + codes[:, m].astype(np.int64)
        one_hot[np.arange(n), columns] = 1
    lifted = one_hot.T @ one_hot + 1e-3 * torch.eye(one_hot.shape[1])
    solved = torch.linalg.inv(lifted) @ (one_hot.T @ torch.from_numpy(rows))
    return solved.reshape(n_codebooks, N_CODEWORDS, N_DIMS).numpy()


def update_calls(n, n_codebooks):
    rows, words = make_vectors("tags", n), start_codebooks(n, n_codebooks)
    codes = codebooks.encode(rows, words, random_state=0)
    return {
        "ours": lambda: codebooks.update_codebooks(rows, codes, N_CODEWORDS),
        "dense one-hot, inverse": lambda: dense_update(rows, codes),
    }


def train_calls(kind, n, n_codebooks):
    """Each call learns on n rows and returns the error of n / 4 others."""
    n_held = n // 4
    rows = make_vectors(kind, n + n_held)
    rows, held = rows[:n], rows[n:]

    def error(decoded):
        return float(np.square(held - decoded).sum(axis=1).mean())

    def ours():
        words, _ = codebooks.learn_codebooks(rows, n_codebooks, N_CODEWORDS, random_state=0)
        codes = codebooks.encode(held, words, beam_size=16, random_state=0)
        return error(codebooks.decode(codes, words))

    def of_faiss(make):
        quantizer = make()
        quantizer.train(rows)
        return error(quantizer.decode(quantizer.compute_codes(held)))

    def opq():
        rotation = faiss.OPQMatrix(N_DIMS, n_codebooks)
        rotation.train(rows)
        quantizer = faiss.ProductQuantizer(N_DIMS, n_codebooks, 8)
        quantizer.train(rotation.apply(rows))
        decoded = quantizer.decode(quantizer.compute_codes(rotation.apply(held)))
        return error(rotation.reverse_transform(decoded))

    def of_nanopq():
        import nanopq

        quantizer = nanopq.PQ(M=n_codebooks, Ks=N_CODEWORDS, verbose=False)
        quantizer.fit(rows, iter=20, seed=0)
        return error(quantizer.decode(quantizer.encode(held)))

    calls = {"ours": ours}
    for name, make in (
        ("RQ beam 5", lambda: faiss.ResidualQuantizer(N_DIMS, n_codebooks, 8)),
        ("LSQ", lambda: faiss.LocalSearchQuantizer(N_DIMS, n_codebooks, 8)),
        ("PQ", lambda: faiss.ProductQuantizer(N_DIMS, n_codebooks, 8)),
    ):
        calls[f"faiss {name}"] = functools.partial(of_faiss, make)
    calls["faiss OPQ"] = opq
    if importlib.util.find_spec("nanopq"):
        calls["nanopq PQ"] = of_nanopq
    return calls


PARTS = {
    "loss": loss_calls,
    "encode": encode_calls,
    "update": update_calls,
    "train": train_calls,
}


# Rows of the table, which are yielded as soon as they are measured


def peaks_of(part, arguments, calls):
    return {name: _harness.peak_bytes(__file__, part, name, *arguments) for name in calls}


def row(work, against, times, peaks, base="ours", scale=1.0, **more):
    ours = statistics.median(times[base])
    theirs = scale * statistics.median(times[against])
    return {
        "work": work,
        "against": against,
        "seconds": ours,
        "other_seconds": theirs,
        "ratio": _harness.ratios(times, against, base, scale),
        "peak": peaks.get(base),
        "other_peak": peaks.get(against),
        **more,
    }


def loss_rows(n_rounds, quick):
    rows = []
    both = {}
    for n_concepts, n_tags in ((200, 5), (1178, 5), (5000, 9)):
        if quick and n_concepts == 1178:
            continue
        work = f"loss, C {n_concepts}, {n_tags} tags"
        calls = loss_calls(n_concepts, n_tags)
        times = _harness.alternate(calls, n_rounds)
        peaks = peaks_of("loss", (n_concepts, n_tags), calls)
        if "naive (batch, C, C)" in calls:
            gap = abs(calls["ours"]() / calls["naive (batch, C, C)"]() - 1)
            asked = 700 if n_concepts == 1178 else None
            note = f"relative gap of the values {gap:.1g}"
            rows.append(row(work, "naive (batch, C, C)", times, peaks, asked=asked, note=note))
        asked = 0.45 if n_concepts == 1178 else None
        rows.append(row(work, "two torch products", times, peaks, asked=asked))
        both[f"C {n_concepts}"] = calls["ours"]
    if not quick:
        times = _harness.alternate({k: both[k] for k in ("C 1178", "C 5000")}, n_rounds)
        rows.append(
            row("loss, C 1178, 5 tags", "C 5000", times, {}, base="C 1178", note="at most 6")
        )
    yield rows


def encode_rows(n_rounds, quick):
    n = 2_000 if quick else 20_000
    asked = {1: 8000, 2: 6000, 4: 5000}
    for n_codebooks in (1, 2, 4):
        rows, work = [], f"encode {n:,}, M {n_codebooks}"
        calls = encode_calls(n, n_codebooks)
        vectors, words = make_vectors("tags", n), start_codebooks(n, n_codebooks)
        ours = calls["ours in the metric"]()
        naive = calls["naive (batch, K, C)"]()
        error = functools.partial(codebooks.quantization_error, vectors, codebooks=words)
        note = f"equal codes {np.mean(naive == ours[:NAIVE_ROWS]):.2%}"
        times = _harness.alternate(calls, n_rounds)
        peaks = peaks_of("encode", (n, n_codebooks), calls)
        scale = n / NAIVE_ROWS
        base = "ours in the metric"
        more = {"base": base, "scale": scale}
        limit = asked[n_codebooks]
        rows.append(row(work, "naive (batch, K, C)", times, peaks, asked=limit, note=note, **more))
        rows.append(row(work, "naive, shortcut", times, peaks, **more))
        rows.append(row(work, "one product", times, peaks, note="the least it can take"))
        for name in ("ours", "ours, beam 4"):
            for rival in ("faiss RQ beam 1", "faiss RQ beam 1, tables"):
                errors = error(calls[name]()), error(calls[rival]())
                note = "error {:.4f} against {:.4f}".format(*errors)
                limit = 2.5 if n_codebooks == 4 and name == "ours" else None
                label = work + name.removeprefix("ours")
                rows.append(row(label, rival, times, peaks, name, asked=limit, note=note))
        yield rows


def update_rows(n_rounds, quick):
    rows, n = [], 2_000 if quick else 20_000
    for n_codebooks, asked in ((1, 19), (2, 20), (4, 20)):
        calls = update_calls(n, n_codebooks)
        vectors, words = make_vectors("tags", n), start_codebooks(n, n_codebooks)
        codes = codebooks.encode(vectors, words, random_state=0)
        errors = [codebooks.quantization_error(vectors, codes, call()) for call in calls.values()]
        note = "error {:.5f} against {:.5f}".format(*errors)
        times = _harness.alternate(calls, n_rounds)
        peaks = peaks_of("update", (n, n_codebooks), calls)
        work = f"update {n:,}, M {n_codebooks}"
        rows.append(row(work, "dense one-hot, inverse", times, peaks, asked=asked, note=note))
    yield rows


def train_rows(n_rounds, quick):
    n = 2_000 if quick else 20_000
    for kind in ("tags", "topics", "clusters"):
        calls = train_calls(kind, n, 4)
        errors = {}

        def keep(name, call, errors=errors):
            errors[name] = call()

        kept = {name: functools.partial(keep, name, call) for name, call in calls.items()}
        # All data sets but the first are there for the error: fewer rounds.
        times = _harness.alternate(kept, n_rounds if kind == "tags" else min(n_rounds, 1))
        peaks = peaks_of("train", (kind, n, 4), calls) if kind == "tags" else {}
        rows = []
        for name in list(calls)[1:]:
            lower = 1 - errors["ours"] / errors[name]
            note = f"held-out {errors['ours']:.4f} against {errors[name]:.4f}, {lower:.1%} lower"
            asked = 2 if name == "faiss RQ beam 5" else None
            work = f"train {n:,}, M 4, {kind}"
            rows.append(row(work, name, times, peaks, asked=asked, note=note))
        yield rows


ROWS = {"loss": loss_rows, "encode": encode_rows, "update": update_rows, "train": train_rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        part, name, *arguments = options.peak
        sizes = [int(a) if a.isdigit() else a for a in arguments]
        _harness.print_peak(PARTS[part](*sizes)[name])
        return
    environment = _harness.environment(
        "numpy", "scipy", "scikit-learn", "torch", "faiss-cpu", "skwsdhq"
    )
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    print(f"D {N_DIMS}, K {N_CODEWORDS}, batch 256 for the loss; {options.rounds} rounds\n")
    rows = []
    for part in options.only:
        for found in ROWS[part](options.rounds, options.quick):
            _harness.print_table(found)
            print(flush=True)
            rows += found
            if options.json:
                _harness.write_json(options.json, environment, rows)


if __name__ == "__main__":
    main()
