"""
The published experiment
========================

WSDHQ (Wang et al., AAAI 2021) trained and scored as its authors did, on the sets they used::

    python examples/reproduce_paper.py --dataset mirflickr25k --data-home DIR \\
        --bits 8 16 24 32 --word-vectors GoogleNews-vectors-negative300.bin.gz
    python examples/reproduce_paper.py --dataset nus_wide --data-home DIR --mode code \\
        --backbone alexnet_wsdhq:alexnet.npy --word-vectors GoogleNews-vectors-negative300.bin.gz

or on others (``openclipart``; ``tagged_folder``, whose tags are its labels). AlexNet learns with
one layer on top, in batches of 256, at a rate of 3e-4 that is halved every 300 steps, for 800 steps
(MIRFLICKR) or 1500 (NUS-WIDE). Database and queries are embedded as the mean over ten crops.
Printed is mAP@5000, exact queries against codes, beside the published figures.

A row that the CSV already has is not computed again, and a run that was broken off goes on from its
last epoch: call the same command again. What is known of the published runs, what is inferred, and
what ``--mode code`` changes, stands in the user guide.
"""

import argparse
import csv
import hashlib
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from skwsdhq import ImageLoader, WSDHQuantizer, codebooks, datasets
from skwsdhq.backbones import resolve_auto
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex
from skwsdhq.tags import check_tags

PUBLISHED = {  # mAP@5000 at 8, 16, 24 and 32 bits
    "mirflickr25k": {8: 0.766, 16: 0.755, 24: 0.765, 32: 0.767},
    "nus_wide": {8: 0.717, 16: 0.727, 24: 0.730, 32: 0.729},
}
STEPS = {"mirflickr25k": 800, "nus_wide": 1500}
TOP_K = 5000
# What tells one row of the CSV from another, and what it says.
SETTINGS = (
    "dataset", "mode", "backbone", "finetune", "steps", "batch_size", "n_codewords", "ten_crop",
    "word_vectors", "n_train",
)  # fmt: skip
KEY = (*SETTINGS, "seed", "bits")
COLUMNS = (
    *KEY, "map", "published", "map_uncompressed", "n_concepts", "epochs", "rows_train",
    "rows_query", "rows_database", "loss", "seconds",
)  # fmt: skip


def parsed(arguments=None):
    parser = argparse.ArgumentParser(
        description="The published experiment: see the top of this file."
    )
    add = parser.add_argument
    add("--dataset", required=True,
        choices=["mirflickr25k", "nus_wide", "openclipart", "tagged_folder"])  # fmt: skip
    add("--data-home", help="folder of the set, see its loader")
    add("--bits", type=int, nargs="+", default=[8, 16, 24, 32])
    add("--seeds", type=int, nargs="+", default=[0], help="of the split and of the training")
    add("--mode", choices=["paper", "code"], default="paper", help="text or published code")
    add("--backbone", help="default: alexnet; for the other two sets the best that is installed")
    add("--finetune", choices=["all", "last", "none"], default="all")
    add("--steps", type=int, help="batches; default: 1500 for nus_wide, else 800")
    add("--batch-size", type=int, default=256)
    add("--n-codewords", type=int, default=256)
    add("--ten-crop", action=argparse.BooleanOptionalAction, default=True)
    add("--word-vectors",
        help="file or gensim model; default: learned from the tags, unlike the paper")  # fmt: skip
    add("--n-query", type=int, help="default: the published split's; a tenth")
    add("--n-train", type=int, help="default: all with tags; 10000 for nus_wide")
    add("--min-count", type=int, help="images that a tag of mirflickr25k must have")
    add("--no-strict", action="store_true", help="the set need not be complete")
    add("--output", type=Path, default=Path("results.csv"))
    add("--checkpoint-dir", type=Path, help="default: beside the CSV; emptied row by row")
    add("--cache-dir", type=Path, help="for resized pictures and features of frozen networks")
    add("--micro-batch-size", type=int, help="images at once, where memory is short")
    add("--n-jobs", type=int, help="threads that read images for frozen networks")
    add("--device")
    add("--verbose", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.data_home is None and options.dataset != "openclipart":
        parser.error(f"--dataset {options.dataset} needs --data-home")
    if options.backbone is None:
        options.backbone = "alexnet" if options.dataset in PUBLISHED else resolve_auto()
    options.steps = options.steps or STEPS.get(options.dataset, 800)
    if options.checkpoint_dir is None:
        options.checkpoint_dir = options.output.with_suffix(".checkpoints")
    return options


# --- data -----------------------------------------------------------------------------------


def load(options, seed):
    """Bunch of images, tags, labels (a matrix, or lists) and a split."""
    name, home = options.dataset, options.data_home
    if name in PUBLISHED:
        sizes = {"random_state": seed, "strict": not options.no_strict}
        if options.n_query is not None:
            sizes["n_query"] = options.n_query
        if name == "mirflickr25k":
            # The logs' epochs have 73 batches: all images with tags, not the 5,000 of others.
            sizes["n_train"] = options.n_train
            if options.min_count is not None:
                sizes["min_count"] = options.min_count
            data = datasets.load_mirflickr25k(home, **sizes)
        else:
            if options.n_train is not None:
                sizes["n_train"] = options.n_train
            data = datasets.load_nus_wide(home, **sizes)
        return Bunch(images=data.images, tags=data.tags, labels=data.target, split=data.split)
    if name == "openclipart":
        data = datasets.load_openclipart(home)
        labels = data.subgroup
    else:
        data = datasets.load_tagged_folder(home)
        labels = check_tags(data.tags)[0].toarray()
    rows = np.arange(len(data.images))
    database, query = train_test_split(
        rows, test_size=options.n_query or 0.1, random_state=seed, shuffle=True
    )
    train = np.array([row for row in database if data.tags[row]])[: options.n_train]
    split = Bunch(train=np.sort(train), query=np.sort(query), database=np.sort(database))
    return Bunch(images=data.images, tags=data.tags, labels=np.asarray(labels), split=split)


def chosen(sequence, rows):
    return [sequence[row] for row in rows]


def inputs(options, data):
    """What the rows of training, queries and database are: paths, or features made once."""
    split = data.split
    if options.finetune != "none":
        return {part: chosen(data.images, rows) for part, rows in split.items()}
    loader = ImageLoader(
        options.backbone, device=options.device, n_jobs=options.n_jobs, verbose=options.verbose,
        memory=options.cache_dir,
    )  # fmt: skip
    plain = loader.fit_transform(data.images)
    test = loader.set_params(ten_crop=True).transform(data.images) if options.ten_crop else plain
    return {"train": plain[split.train], **{k: test[split[k]] for k in ("query", "database")}}


# --- one row --------------------------------------------------------------------------------


def run(options, data, given, enhancer, seed, bits):
    """Train, encode the database, and score."""
    started = time.perf_counter()
    split = data.split
    n_batches = -(-len(split.train) // options.batch_size)
    epochs = max(1, round(options.steps / n_batches))
    folder = options.checkpoint_dir / key_of(options, seed, bits)
    finetune = None if options.finetune == "none" else options.finetune
    tuning = {
        "embedder__finetune__micro_batch_size": options.micro_batch_size,
        "embedder__finetune__cache_dir": options.cache_dir,
    }
    quantizer = WSDHQuantizer.from_paper(
        mode=options.mode, n_bits=bits, finetune=finetune,
        n_codewords=options.n_codewords, random_state=seed, device=options.device,
        checkpoint_dir=folder, verbose=options.verbose,
        embedder__tag_enhancer=FrozenEstimator(enhancer), embedder__backbone=options.backbone,
        embedder__max_iter=epochs, embedder__batch_size=options.batch_size,
        embedder__ten_crop=False, **({} if finetune is None else tuning),
    )  # fmt: skip
    with warnings.catch_warnings():
        # A run that Ctrl-C ends is no result; its last whole epoch is in the folder.
        warnings.filterwarnings("error", "training was interrupted", ConvergenceWarning)
        quantizer.fit(given["train"], chosen(data.tags, split.train))
    quantizer.embedder_.set_params(ten_crop=options.ten_crop)
    queries, database = quantizer.transform(given["query"]), quantizer.transform(given["database"])
    codes = codebooks.encode(
        database, quantizer.codebooks_, metric=quantizer.metric_, n_sweeps=quantizer.icm_iters,
        random_state=seed,
    )  # fmt: skip
    labels = data.labels[split.query], data.labels[split.database]
    index = CodeIndex(quantizer.codebooks_, codes)
    score = mean_average_precision(queries, index, *labels, top_k=TOP_K)
    exact = mean_average_precision(queries, database, *labels, top_k=TOP_K)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "map": f"{score:.4f}",
        "published": PUBLISHED.get(options.dataset, {}).get(bits, ""),
        "map_uncompressed": f"{exact:.4f}",
        "n_concepts": len(enhancer.concept_vectors_),
        "epochs": epochs,
        "rows_train": len(split.train),
        "rows_query": len(split.query),
        "rows_database": len(split.database),
        "loss": f"{quantizer.history_['loss'][-1]:.5f}",
        "seconds": round(time.perf_counter() - started, 1),
    }


# --- results --------------------------------------------------------------------------------


def settings(options):
    return {name: "" if (value := getattr(options, name)) is None else str(value)
            for name in SETTINGS}  # fmt: skip


def key_of(options, seed, bits):
    """A folder's name for this row."""
    text = repr((settings(options), os.path.abspath(options.data_home or ""), seed, bits))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise SystemExit(f"{path} has other columns; name another --output.")
        # A line that was being written when the power failed is no row.
        return [row for row in reader if row["seconds"]]


def write_rows(path, rows):
    """Replace the CSV at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def table(options, rows):
    """Mean over seeds of each number of bits, beside what was published."""
    bits = sorted({int(row["bits"]) for row in rows})
    lines = [f"mAP@{TOP_K} on {options.dataset}, {options.mode}, {options.backbone}"]
    lines.append(" " * 24 + "".join(f"{b:>7d} bits" for b in bits))

    def line(name, values):
        cells = ("" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{name:24s}" + "".join(f"{cell:>12s}" for cell in cells))

    def mean(column):
        return [np.mean([float(r[column]) for r in rows if int(r["bits"]) == b]) for b in bits]

    n_seeds = len({row["seed"] for row in rows})
    line(f"here, {n_seeds} seed{'s' * (n_seeds > 1)}", mean("map"))
    line("here, uncompressed", mean("map_uncompressed"))
    if options.dataset in PUBLISHED:
        line("published", [PUBLISHED[options.dataset].get(b) for b in bits])
    return "\n".join(lines)


def main(arguments=None):
    options = parsed(arguments)
    rows = read_rows(options.output)
    wanted = settings(options)
    for seed in options.seeds:
        data = given = None
        for bits in options.bits:
            key = {**wanted, "seed": str(seed), "bits": str(bits)}
            if any(all(row[name] == key[name] for name in KEY) for row in rows):
                continue
            if data is None:
                data = load(options, seed)
                split = data.split
                print(f"seed {seed}: {len(split.train)} images to train on, {len(split.query)} "
                      f"queries, {len(split.database)} in the database", flush=True)  # fmt: skip
                template = WSDHQuantizer.from_paper(options.word_vectors, mode=options.mode)
                enhancer = template.embedder.tag_enhancer.fit(chosen(data.tags, split.train))
                print(f"{len(enhancer.vocabulary_)} tags became {len(enhancer.concept_vectors_)} "
                      "concepts", flush=True)  # fmt: skip
                given = inputs(options, data)
            try:
                result = run(options, data, given, enhancer, seed, bits)
            except ConvergenceWarning:
                print("broken off; the same command goes on from the last epoch", flush=True)
                return 1
            rows.append({**key, **result})
            write_rows(options.output, rows)
            print(f"{bits} bits: mAP {result['map']}, uncompressed {result['map_uncompressed']}, "
                  f"{result['seconds']} s", flush=True)  # fmt: skip
    ours = [row for row in rows if all(row[name] == wanted[name] for name in SETTINGS)]
    ours = [row for row in ours if int(row["bits"]) in options.bits]
    print(table(options, [row for row in ours if int(row["seed"]) in options.seeds]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
