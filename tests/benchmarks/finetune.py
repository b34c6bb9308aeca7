"""mAP on openclipart of a network that learns along, beside the same network frozen.

    python tests/benchmarks/finetune.py --data-home FOLDER --output finetune.csv
    python tests/benchmarks/finetune.py --part validation --seeds 0 --variants tuned --label slow \\
        --param embedder__learning_rate=1e-4

A tenth of the pictures are queries, against all others, from whose tags was learned; labels are the
folders of the first and of the two first levels. With ``--part validation`` a fifth of those others
are the queries instead: choose parameters there. "frozen" is ``finetune=None``, "tuned" is
``finetune="all"`` with the parameters of ``TUNED``. "told" is "frozen" with queries where their own
tags, which no method sees, say that they should be: what could be gained by guessing tags better.
``--param`` holds for all, as ``embedder__NAME``, ``quantizer__NAME`` or ``size``, the side of the
network's input in pixels; ``embedder__finetune__NAME`` holds for "tuned" alone. The embedder is
fitted first, the codebooks on what it gives.

Each row of the CSV is of one fit, number of bits (0 is uncompressed) and level. A fit that the CSV
has is not repeated, and with ``--checkpoint-dir`` one that was stopped goes on (its seconds count
from there). Seconds are of the whole fit of the embedder, features from pictures included: by the
clock, and of process CPU time. One thread.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import dataclasses
import functools
import time
import warnings
from pathlib import Path

import numpy as np
from _harness import append_rows, environment, read_rows
from _quality_methods import set_embedder
from quality import _parameter, word_vectors
from sklearn.model_selection import train_test_split

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.backbones import extract_features, load_backbone
from skwsdhq.datasets import load_openclipart
from skwsdhq.embedding import FineTuning
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows

KEY = ("part", "seed", "variant", "label")
COLUMNS = (*KEY, "bits", "labels", "map", "seconds", "cpu_seconds", "parameters")
LEVELS = ("first level", "second level")
VARIANTS = ("frozen", "tuned", "told")
TUNED = {
    "size": 160,
    "embedder__finetune__crop_size": 128,
    "embedder__max_iter": 4,
    "embedder__finetune__head_iter": 40,
    "embedder__batch_size": 16,
    "embedder__learning_rate": 1e-3,
    "embedder__finetune__rate_factor": 0.1,
    "embedder__finetune__dtype": "float32",
}


def split_rows(n, seed, part):
    """Database and query rows."""
    database, queries = train_test_split(np.arange(n), test_size=0.1, random_state=seed)
    if part == "validation":
        database, queries = train_test_split(database, test_size=0.2, random_state=seed)
    return database, queries


def parameters_of(args, variant):
    """Those of the embedder, of the quantizer, and the network's side."""
    given = {**(TUNED if variant == "tuned" else {}), **args.parameters}
    size = given.pop("size", None)
    own = {}
    for kind in ("embedder", "quantizer"):
        start = f"{kind}__"
        own[kind] = {
            k.removeprefix(start): given.pop(k) for k in list(given) if k.startswith(start)
        }
    if variant != "tuned":
        own["embedder"] = {
            k: v for k, v in own["embedder"].items() if not k.startswith("finetune__")
        }
    if given:
        raise SystemExit(f"--param {sorted(given)}: not size, embedder__… or quantizer__….")
    return own["embedder"], own["quantizer"], size


def timed(function, *arguments):
    """Seconds by the clock and of process CPU time, and what it returns."""
    clock, process = time.perf_counter(), time.process_time()
    returned = function(*arguments)
    return np.array([time.perf_counter() - clock, time.process_time() - process]), returned


@functools.cache
def frozen_features(images, network):
    """Features of all pictures, and the two times that they took."""
    seconds, features = timed(extract_features, images, network)
    return features, *seconds


def run(data, seed, variant, args):
    """Rows for the CSV of one fit."""
    database, queries = split_rows(len(data.images), seed, args.part)
    images, asked = ([data.images[n] for n in rows] for rows in (database, queries))
    tags = [data.tags[n] for n in database]
    embedding, quantizing, size = parameters_of(args, variant)
    network = load_backbone(args.backbone)
    if size is not None:
        network = dataclasses.replace(network, size=size)
    extracting = 0.0, 0.0
    if variant != "tuned":
        # All splits see the same features: a fit is charged with its share of their time.
        features, *extracting = frozen_features(tuple(data.images), network)
        images, asked = features[database], features[queries]
    embedder = HypersphereEmbedder(
        TagEnhancer(word_vectors(args.word_vectors)),
        backbone=network,
        finetune=FineTuning("all", cache_dir=args.cache_dir) if variant == "tuned" else None,
        checkpoint_dir=args.checkpoint_dir,
        random_state=seed,
        verbose=args.verbose,
    )
    set_embedder(embedder, embedding)
    seconds, _ = timed(embedder.fit, images, tags)
    seconds += np.multiply(extracting, len(images) / len(data.images))
    rows, vectors = embedder.transform(images), embedder.transform(asked)
    if variant == "told":
        vectors = told(embedder.tag_enhancer_, tags, [data.tags[n] for n in queries])
    found = []
    for bits in (0, *args.bits):
        rival = rows
        if bits:
            quantizer = WSDHQuantizer("passthrough", n_codebooks=bits // 8, random_state=seed)
            quantizer.set_params(**quantizing).fit(rows)
            rival = CodeIndex(quantizer.codebooks_, quantizer.codes_)
        for level, labels in zip(LEVELS, (data.target, data.subgroup), strict=True):
            value = mean_average_precision(vectors, rival, labels[queries], labels[database])
            found.append(
                {
                    "part": args.part,
                    "seed": seed,
                    "variant": variant,
                    "label": args.label,
                    "bits": bits,
                    "labels": level,
                    "map": round(value, 6),
                    "seconds": round(seconds[0], 1),
                    "cpu_seconds": round(seconds[1], 1),
                    "parameters": " ".join(f"{k}={v}" for k, v in args.parameters.items()),
                }
            )
    return found


def told(enhancer, tags, asked):
    """Where tags of queries say that they should be, less the mean of the database's."""
    tags, asked = (
        normalize_rows(np.asarray(enhancer.transform(rows) @ enhancer.concept_vectors_))
        for rows in (tags, asked)
    )
    return normalize_rows(asked - tags[tags.any(axis=1)].mean(axis=0))


def key_of(row):
    return tuple(str(row[name]) for name in KEY)


def show(rows):
    """Mean and deviation over seeds; the last column is what is gained on frozen, by seed."""
    table = {}
    for row in rows:
        line = (row["part"], row["labels"], int(row["bits"]))
        name = " ".join(filter(None, (row["variant"], row["label"])))
        table.setdefault(line, {}).setdefault(name, {})[row["seed"]] = float(row["map"])
    for line, variants in sorted(table.items()):
        part, level, bits = line
        print(f"\n{level}, {f'{bits} bits' if bits else 'uncompressed'}, {part}")
        base = variants.get("frozen", {})
        for name, seeds in variants.items():
            values = list(seeds.values())
            gains = [seeds[seed] - base[seed] for seed in seeds if seed in base]
            gain = "" if name == "frozen" or not gains else f"  {np.mean(gains):+.4f}"
            gain += f" ({' '.join(f'{g:+.4f}' for g in gains)})" if gain else ""
            print(f"  {name:24} {np.mean(values):.4f} ±{np.std(values):.4f} ({len(seeds)}){gain}")
    print()
    for name in dict.fromkeys((r["variant"], r["label"]) for r in rows):
        own = [row for row in rows if (row["variant"], row["label"]) == name]
        clock, process = (
            np.median([float(row[column]) for row in own]) for column in ("seconds", "cpu_seconds")
        )
        print(f"{' '.join(filter(None, name)):24} {clock:.0f} s a fit, {process:.0f} s of CPU time")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-home", default=None, help="where load_openclipart finds its files")
    add("--backbone", default="efficientnet_lite0")
    add("--word-vectors", default="", help="file in word2vec's format; GloVe of a package without")
    add("--variants", nargs="+", default=["frozen", "tuned"], choices=VARIANTS)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--bits", type=int, nargs="+", default=[32])
    add("--part", choices=["all", "validation"], default="all")
    add("--param", nargs="+", default=[], metavar="NAME=VALUE")
    add("--label", default="", help="what the variant is called in the CSV")
    add("--cache-dir", default=None, help="for resized pictures")
    add("--checkpoint-dir", default=None)
    add("--output", type=Path, default=Path("finetune.csv"))
    add("--verbose", type=int, default=0)
    args = parser.parse_args(arguments)
    if bad := [b for b in args.bits if b < 8 or b % 8]:
        parser.error(f"bits {bad} should be multiples of 8.")
    if args.param and not args.label:
        parser.error("--param needs a --label, else its rows would pass for those of the defaults.")
    args.parameters = dict(map(_parameter, args.param))
    return args


def main():
    args = parse()
    warnings.simplefilter("ignore")
    facts = environment("numpy", "scikit-learn", "torch", "timm")
    facts["clock"] = "wall and process CPU time"
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    data = load_openclipart(args.data_home)
    print(f"{len(data.images)} pictures, {sum(map(len, data.tags)) / len(data.tags):.1f} tags each")
    for seed in args.seeds:
        for variant in args.variants:
            key = (args.part, str(seed), variant, args.label)
            if key in map(key_of, read_rows(args.output)):
                continue
            rows = run(data, seed, variant, args)
            append_rows(args.output, rows, COLUMNS)
            found = " ".join(f"{r['labels']} {r['bits']}b {r['map']:.4f};" for r in rows)
            print(
                f"seed {seed} {variant} {args.label} {rows[0]['seconds']:.0f}s: {found}", flush=True
            )
    show(read_rows(args.output))


if __name__ == "__main__":
    main()
