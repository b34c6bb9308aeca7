"""mAP of codes, beside everything that a user would pick instead.

    python tests/benchmarks/quality.py --features CACHE --output results.csv
    python tests/benchmarks/quality.py --datasets emoji --methods ours "WDHT binary" --bits 16 32
    python tests/benchmarks/quality.py --methods ours --part validation --label contrastive \\
        --param embedder__loss=contrastive embedder__loss__temperature=0.2

All methods get the same features, splits and word vectors. Five folds, so that every picture is a
query once, against the codes of the other folds, from whose tags was learned. With
``--part validation`` a fifth of those are the queries instead, and the fold's own pictures are not
touched: choose parameters there. ``--noise p`` drops that fraction of the training rows' tags and
adds as many, drawn as often as they occur. A row that the CSV already has is not computed again:
a run that was stopped goes on. The table and the plots, beside the CSV, show all that it has.

mAP@5000, queries as they are against codes (asymmetric); signs of binary codes against signs, as
Hamming distance ranks. Seconds are of process CPU time, one
thread, for all numbers of bits of a fold together, median over folds.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import ast
import importlib
import json
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import numpy as np
from _harness import append_rows, environment, read_rows
from _quality_methods import METHODS, Split
from sklearn.model_selection import KFold, train_test_split

from skwsdhq.metrics import precision_recall_curve, ranking_scores

KEY = ("dataset", "backbone", "part", "noise", "seed", "fold", "method", "label", "bits")
COLUMNS = (*KEY, "labels", "map", "seconds", "precision_at_k", "precision_at_recall")
RANKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
N_LEVELS = 21  # of recall, from 0 to 1
LABEL_NAMES = {
    "emoji": ("groups", "subgroups"),
    "openclipart": ("first level", "second level"),
    "photos": ("theme",),
    "photos_noisy": ("theme",),
}
CHANNELS = (80, 112, 192, 320)  # of the stages that a file of photographs has


# --- data -----------------------------------------------------------------------------------


def prepare(name, backbone, folder, data_home):
    """Features, tags and labels in the cache, by the loader and the network where they are not."""
    matrix, facts = folder / f"{name}-{backbone}.npy", folder / f"{name}.json"
    if matrix.exists() and facts.exists():
        return
    if name.startswith("photos"):
        _prepare_photographs(name, backbone, matrix, facts, data_home)
        return
    datasets = importlib.import_module("skwsdhq.datasets")
    load = getattr(datasets, f"load_{name}")
    bunch = load() if name == "emoji" else load(data_home)
    folder.mkdir(parents=True, exist_ok=True)
    if not matrix.exists():
        from skwsdhq.backbones import extract_features

        np.save(matrix, extract_features(bunch.images, backbone, n_jobs=2, verbose=1))
    found = [bunch.target] + ([bunch.subgroup] if "subgroup" in bunch else [])
    names = LABEL_NAMES.get(name, ("labels", "finer labels"))
    labels = {
        level: [np.flatnonzero(row).tolist() for row in _indicator(target)]
        for level, target in zip(names, found, strict=False)
    }
    facts.write_text(json.dumps({"tags": [list(row) for row in bunch.tags], "labels": labels}))


def of_stages(arrays):
    """Features of the last layer and of the stages, each part of one sum as backbones give it."""
    ends = np.cumsum(np.repeat(CHANNELS, 2))[:-1]
    parts = [arrays["features"], *np.split(arrays["stages"], ends, axis=1)]
    parts = [part.astype(np.float32) for part in parts]
    return np.hstack([1000 * part / np.abs(part).sum(axis=1, keepdims=True) for part in parts])


def _prepare_photographs(name, backbone, matrix, facts, path):
    """The same of photographs whose features are in a file, see later.py."""
    if path is None:
        raise SystemExit(f"{name} needs --photos FILE.npz")
    arrays = np.load(path)
    told = json.loads(Path(path).with_suffix(".json").read_text())
    matrix.parent.mkdir(parents=True, exist_ok=True)
    stages = backbone.startswith("stages:")
    np.save(matrix, of_stages(arrays) if stages else arrays["features"].astype(np.float32))
    labels = [np.flatnonzero(row).tolist() for row in _indicator(arrays["theme"])]
    tags = told["tags_noisy" if name.endswith("noisy") else "tags"]
    facts.write_text(json.dumps({"tags": tags, "labels": {"theme": labels}}))


def _indicator(target):
    target = np.asarray(target)
    return target if target.ndim == 2 else target[:, None] == np.unique(target)


@cache
def read(name, backbone, folder):
    """Features (n, d), tags, and {level: (n, L) 0/1}."""
    features = np.load(folder / f"{name}-{backbone}.npy")
    facts = json.loads((folder / f"{name}.json").read_text())
    if not len(features) == len(facts["tags"]):
        raise ValueError(f"{name}: {len(features)} features, {len(facts['tags'])} rows of tags.")
    labels = {}
    for level, rows in facts["labels"].items():
        labels[level] = np.zeros((len(rows), 1 + max(map(max, filter(None, rows)))), dtype=np.int8)
        for n, row in enumerate(rows):
            labels[level][n, row] = 1
    return features, facts["tags"], labels


@cache
def word_vectors(path):
    """Vectors of a file that TagEnhancer reads; without one, GloVe of a package, or emoji's."""
    if path:
        from gensim.models import KeyedVectors

        return KeyedVectors.load_word2vec_format(path, binary=path.endswith(".bin"))
    try:
        from skwsdhq.datasets._build_emoji import glove_vectors

        index, vectors = glove_vectors()
    except ImportError:
        from skwsdhq.datasets import load_emoji

        print("no package of GloVe's vectors: those of the emoji set stand in for them", flush=True)
        return load_emoji().word_vectors
    return Words(index, vectors)


class Words:
    def __init__(self, index, vectors):
        self.index, self.vectors = index, vectors

    def __contains__(self, word):
        return word in self.index

    def __getitem__(self, word):
        return self.vectors[self.index[word]]

    def __sklearn_clone__(self):
        return self


def split_rows(n, seed, fold, n_folds, part):
    """Database and query rows of a fold."""
    folds = KFold(n_folds, shuffle=True, random_state=seed).split(np.arange(n))
    database, queries = list(folds)[fold]
    if part == "validation":
        database, queries = train_test_split(database, test_size=0.2, random_state=seed)
    return database, queries


def spoil(tags, noise, seed):
    """Tags of which a fraction is dropped, and as many wrong ones added as often as tags occur."""
    if not noise:
        return tags
    random = np.random.default_rng([seed, 1])
    rows = np.repeat(np.arange(len(tags)), [len(row) for row in tags])
    names = np.array([tag for row in tags for tag in row], dtype=object)
    dropped = random.random(len(names)) < noise
    spoilt = [[] for _ in tags]
    for n, tag in zip(rows[~dropped], names[~dropped], strict=True):
        spoilt[n].append(tag)
    n_new = int(dropped.sum())
    for n, tag in zip(
        random.integers(0, len(tags), n_new), random.choice(names, n_new), strict=True
    ):
        if tag not in spoilt[n]:
            spoilt[n].append(tag)
    return spoilt


# --- one piece of work ----------------------------------------------------------------------


def run(work):
    """Rows for the CSV of one method on one fold, for the bits that are asked for."""
    warnings.simplefilter("ignore")
    X, tags, labels = read(work["dataset"], work["backbone"], work["folder"])
    database, asked = split_rows(len(X), work["seed"], work["fold"], work["n_folds"], work["part"])
    split = Split(
        X[database],
        spoil([tags[n] for n in database], work["noise"], work["seed"]),
        X[asked],
        None if work["dataset"].startswith("photos") else word_vectors(work["words"]),
        work["seed"],
        work["parameters"],
    )
    rows, start = [], time.process_time()
    for bits, queries, rival in METHODS[work["method"]](split, [b for b in work["bits"] if b]):
        seconds = time.process_time() - start
        for level, target in labels.items():
            given = (queries, rival, target[asked], target[database])
            scores = ranking_scores(*given, k=RANKS)
            precision, _ = precision_recall_curve(*given, recall_levels=N_LEVELS)
            rows.append(
                {
                    **{name: work[name] for name in KEY if name != "bits"},
                    "bits": bits,
                    "labels": level,
                    "map": round(scores["map"], 6),
                    "seconds": round(seconds, 2),
                    "precision_at_k": " ".join(f"{v:.4f}" for v in scores["precision"]),
                    "precision_at_recall": " ".join(f"{v:.4f}" for v in precision),
                }
            )
        start = time.process_time()
    return rows


def key_of(row):
    return tuple(str(row[name]) for name in KEY)


def whole_rows(path):
    return [row for row in read_rows(path) if row["precision_at_recall"]]


def work_to_do(args, done):
    """What the CSV lacks, fold by fold, so that a first fold of everything comes first."""
    for noise in args.noise:
        for seed in args.seeds:
            for fold in range(args.first_folds or args.folds):
                for dataset in args.datasets:
                    for method in args.methods:
                        work = {
                            "dataset": dataset,
                            "backbone": args.backbone,
                            "part": args.part,
                            "noise": noise,
                            "seed": seed,
                            "fold": fold,
                            "method": method,
                            "label": args.label if method.startswith("ours") else "",
                            "folder": args.features,
                            "n_folds": args.folds,
                            "words": args.word_vectors,
                            "parameters": args.parameters if method.startswith("ours") else {},
                        }
                        if method in ("features", "features, PCA"):  # nothing is compressed
                            wanted = [0]
                        else:
                            wanted = args.bits
                        work["bits"] = [
                            b for b in wanted if key_of({**work, "bits": b}) not in done
                        ]
                        if work["bits"]:
                            yield work


# --- tables and plots -----------------------------------------------------------------------


def summarize(rows):
    """{(dataset, part, noise, labels): {(method, label): {bits: list of the seeds' means}}}."""
    folds = {}
    for row in rows:
        table = (row["dataset"], row["backbone"], row["part"], row["noise"], row["labels"])
        line = (row["method"], row["label"])
        values = folds.setdefault(table, {}).setdefault(line, {}).setdefault(int(row["bits"]), {})
        values.setdefault(row["seed"], {})[row["fold"]] = row
    return folds


def show(folds):
    for table, lines in sorted(folds.items()):
        bits = sorted({b for line in lines.values() for b in line}, key=lambda b: b or 999)
        print(f"\nmAP@5000, {', '.join(table)} (mean ± deviation of the seeds' means; folds)")
        head = [f"{b} bits" if b else "uncompressed" for b in bits]
        print(f"{'':34}" + "".join(f"{h:>16}" for h in head) + "   seconds")
        order = sorted(lines, key=lambda line: -_best(lines[line]))
        for line in order:
            cells = []
            for b in bits:
                seeds = lines[line].get(b)
                if not seeds:
                    cells.append("")
                    continue
                means = seed_means(seeds)
                n = sum(map(len, seeds.values()))
                spread = f"±{np.std(means):.3f}" if len(means) > 1 else ""
                cells.append(f"{np.mean(means):.3f}{spread} ({n})")
            seconds = np.median(list(_seconds_of_folds(lines[line]).values()))
            name = " ".join(filter(None, line))
            print(f"{name:34}" + "".join(f"{c:>16}" for c in cells) + f"{seconds:10.1f}")


def _seconds_of_folds(line):
    """Of all numbers of bits together: what is learned once for all counts with the first."""
    sums = {}
    for seeds in line.values():
        for seed, folds in seeds.items():
            for fold, row in folds.items():
                sums[seed, fold] = sums.get((seed, fold), 0) + float(row["seconds"])
    return sums


def _best(line):
    return max(np.mean(seed_means(seeds)) for seeds in line.values())


def seed_means(seeds):
    return [np.mean([float(row["map"]) for row in folds.values()]) for folds in seeds.values()]


def plot(folds, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from skwsdhq.plotting import CodeLengthDisplay, PrecisionAtKDisplay, PrecisionRecallDisplay

    for table, lines in folds.items():
        figure, axes = plt.subplots(1, 3, figsize=(18, 6))
        styles = plt.cycler(linestyle=["-", "--", ":"]) * plt.cycler(
            color=plt.get_cmap("tab10").colors
        )
        for axis in axes:
            axis.set_prop_cycle(styles)
        order = sorted(lines, key=lambda line: -_best(lines[line]))
        for line, style in zip(order, styles, strict=False):
            name = " ".join(filter(None, line))
            coded = {b: seeds for b, seeds in sorted(lines[line].items()) if b}
            whole = lines[line].get(0)
            if coded:
                CodeLengthDisplay(
                    list(coded),
                    [np.mean(seed_means(s)) for s in coded.values()],
                    spread=[np.std(seed_means(s)) for s in coded.values()],
                    name=name,
                ).plot(ax=axes[0], **style)
            elif whole:
                axes[0].axhline(np.mean(seed_means(whole)), **style)
            n_bits = 32 if 32 in coded else max(coded, default=0)
            seeds = lines[line].get(n_bits)
            if not seeds:
                continue
            suffix = f"{name}, {n_bits} bits" if n_bits else name
            PrecisionRecallDisplay(
                _mean_curve(seeds, "precision_at_recall"),
                np.linspace(0, 1, N_LEVELS),
                name=suffix,
            ).plot(ax=axes[1], **style)
            PrecisionAtKDisplay(RANKS, _mean_curve(seeds, "precision_at_k"), name=suffix).plot(
                ax=axes[2], **style
            )
        for axis in axes:
            if axis.get_legend():
                axis.get_legend().remove()
        axes[1].set_title(f"{table[0]}, {table[-1]}")
        axes[2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.tight_layout()
        name = "-".join(part.replace(" ", "_") for part in table)
        figure.savefig(path.with_name(f"{path.stem}-{name}.png"), dpi=90)
        plt.close(figure)


def plot_noise(folds, path):
    """mAP at the longest codes against the noise of the tags, where several noises were tried."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {}
    for (dataset, backbone, part, noise, labels), lines in folds.items():
        for line, by_bits in lines.items():
            place = curves.setdefault((dataset, backbone, part), {}).setdefault(labels, {})
            n_bits = 32 if 32 in by_bits else max(by_bits)
            value = np.mean(seed_means(by_bits[n_bits]))
            place.setdefault((" ".join(filter(None, line)), n_bits), {})[float(noise)] = value
    for table, panels in curves.items():
        figure, axes = plt.subplots(
            1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, layout="constrained"
        )
        for axis, (labels, lines) in zip(axes[0], sorted(panels.items()), strict=True):
            for (name, n_bits), values in sorted(lines.items()):
                if len(values) > 1:
                    noises = sorted(values)
                    scores = [values[noise] for noise in noises]
                    axis.plot(noises, scores, "o-", label=f"{name}, {n_bits} bits")
            axis.set(
                xlabel="fraction of tags replaced", ylabel="mAP", title=f"{table[0]}, {labels}"
            )
            if axis.lines:
                axis.legend(fontsize=8)
        if any(axis.lines for axis in axes[0]):
            figure.savefig(path.with_name(f"{path.stem}-{'-'.join(table)}-noise.png"), dpi=80)
        plt.close(figure)


def _mean_curve(seeds, column):
    curves = [row[column].split() for folds in seeds.values() for row in folds.values()]
    return np.mean(np.array(curves, dtype=float), axis=0)


# --- command line ---------------------------------------------------------------------------


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--datasets", nargs="+", default=["emoji"], help="names of load_… in skwsdhq.datasets")
    add("--data-home", default=None, help="where loaders that need files find them")
    add("--photos", default=None, help=".npz file of photographs, for photos and photos_noisy")
    add("--features", type=Path, default=Path("quality-features"), help="folder of the cache")
    add("--backbone", default="efficientnet_lite0")
    add("--word-vectors", default="", help="file in word2vec's format")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    add("--bits", type=int, nargs="+", default=[8, 16, 24, 32, 64])
    add("--folds", type=int, default=5)
    add("--first-folds", type=int, default=None, help="only the first so many of the folds")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--noise", type=float, nargs="+", default=[0.0])
    add("--part", choices=["all", "validation"], default="all")
    add("--param", nargs="+", default=[], metavar="NAME=VALUE", help="of ours")
    add("--label", default="", help="what the variant is called in the CSV")
    add("--output", type=Path, default=Path("quality.csv"))
    add("--n-jobs", type=int, default=1, help="processes of one thread each")
    add("--no-plots", action="store_true")
    args = parser.parse_args(arguments)
    if bad := [b for b in args.bits if b < 8 or b % 8]:
        parser.error(f"bits {bad} should be multiples of 8.")
    if args.param and not args.label:
        parser.error("--param needs a --label, else its rows would pass for those of the defaults.")
    args.parameters = dict(map(_parameter, args.param))
    args.features = args.features.resolve()
    return args


def _parameter(text):
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def main():
    args = parse()
    facts = environment("numpy", "scipy", "scikit-learn", "torch", "faiss-cpu")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for dataset in args.datasets:
        home = args.photos if dataset.startswith("photos") else args.data_home
        prepare(dataset, args.backbone, args.features, home)
    work = list(work_to_do(args, {key_of(row) for row in whole_rows(args.output)}))
    print(f"{len(work)} fits of a method on a fold to do", flush=True)

    def keep(rows):
        append_rows(args.output, rows, COLUMNS)
        found = " ".join(f"{r['labels']} {r['bits']}b {r['map']:.3f};" for r in rows)
        row = rows[0]
        where = f"{row['dataset']} seed {row['seed']} fold {row['fold']} noise {row['noise']}"
        seconds = sum({r["bits"]: r["seconds"] for r in rows}.values())
        print(f"{where} {row['method']} {row['label']} {seconds:.0f}s: {found}", flush=True)

    if args.n_jobs == 1:
        for piece in work:
            keep(run(piece))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.n_jobs, mp_context=context) as pool:
            for future in as_completed([pool.submit(run, piece) for piece in work]):
                keep(future.result())
    folds = summarize(whole_rows(args.output))
    show(folds)
    if not args.no_plots:
        plot(folds, args.output)
        plot_noise(folds, args.output)


if __name__ == "__main__":
    main()
