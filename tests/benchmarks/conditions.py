"""mAP where tags are noisy, few, rare or of two languages, and images few or many.

    python tests/benchmarks/conditions.py --features CACHE --photos FILE.npz --openclipart FOLDER \\
        --output conditions.png

takes the sets that later.py takes, with features of stages. A fifth of the rows are queries, codes
of the others are searched. Noise drops that share of the tags and adds as many; "n tags" keeps so
many of each image at most; "tagged" takes the tags of all other images away; "two languages" gives
half of the images tags of a second language that has no word in common with the first. Images
beyond those of the sets are made by ``make_tagged_images``.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from later import TOP_K, emoji, openclipart, photographs
from quality import spoil

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.metrics import mean_average_precision

NOISES = (0.0, 0.15, 0.3, 0.5)
ROWS = (200, 500, 1000, 2000)
TAGS = (1, 2, 3, 5, 10)
TAGGED = (0.05, 0.1, 0.25, 0.5)
MADE = (500, 2000, 20_000)


class TwoLanguages(dict):
    """Word vectors of one language, which know nothing of the other."""

    def __init__(self, vectors):
        self.vectors = vectors

    def __contains__(self, word):
        return not word.startswith("zz") and word in self.vectors

    def __getitem__(self, word):
        return self.vectors[word]


def conditions(tags, seed):
    """(kind, value, tags as they are then) for each condition of the tags."""
    random = np.random.RandomState(seed)
    for noise in NOISES:
        yield "noise", noise, spoil(tags, noise, seed)
    for n in TAGS:
        kept = [list(random.permutation(sorted(row))[:n]) for row in tags]
        yield "tags an image", n, kept
    order = random.permutation(len(tags))
    for share in TAGGED:
        with_tags = set(order[: int(share * len(tags))])
        yield "share tagged", share, [row if i in with_tags else [] for i, row in enumerate(tags)]
    second = set(order[: len(tags) // 2])
    mixed = [[f"zz{tag}" for tag in row] if i in second else row for i, row in enumerate(tags)]
    yield "languages", 1, tags
    yield "languages", 2, mixed


def score(features, tags, vectors, labels, rows, queries, seed, parameters):
    """{label: mAP of 32-bit codes}."""
    embedder = HypersphereEmbedder(TagEnhancer(vectors), random_state=seed, **parameters)
    # Fewer rows than codewords have codes of fewer words each.
    model = WSDHQuantizer(embedder, n_bits=32, random_state=seed).fit(features[rows], tags)
    asked = model.transform(features[queries])
    index = model.index()
    return {
        name: mean_average_precision(asked, index, values[queries], values[rows], top_k=TOP_K)
        for name, values in labels.items()
    }


def measure(features, tags, vectors, labels, seed, parameters):
    """{(kind, value): {label: mAP}} of one set."""
    order = np.random.RandomState(seed).permutation(len(features))
    queries, rows = order[: len(order) // 5], order[len(order) // 5 :]
    found = {}
    for kind, value, changed in conditions([tags[i] for i in rows], seed):
        words = TwoLanguages(vectors) if value == 2 and vectors is not None else vectors
        found[kind, value] = score(
            features, changed, words, labels, rows, queries, seed, parameters
        )
    for n in (*(n for n in ROWS if n < len(rows)), len(rows)):
        some = rows[:n]
        own = [tags[i] for i in some]
        found["images", n] = score(features, own, vectors, labels, some, queries, seed, parameters)
    return found


def draw(found, path):
    """One panel for each kind of condition, a line for each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = dict.fromkeys(kind for kind, _ in next(iter(found.values())))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.2 * len(kinds), 3.4), sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        for (name, line), marker in zip(found.items(), "osD^vPX", strict=False):
            points = [(value, map_) for (k, value), map_ in line.items() if k == kind]
            ax.plot(*zip(*points, strict=True), marker=marker, label=name)
        ax.set_xlabel(kind)
        values = sorted({value for line in found.values() for k, value in line if k == kind})
        if kind == "images":
            ax.set_xscale("log")
            values = [value for value in values if value in ROWS]
        ax.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("mAP at 32 bits")
    axes[0].set_ylim(bottom=0)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, ncol=6, loc="upper center", frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features"), help="cache")
    parser.add_argument("--photos", default=None, help=".npz file of photographs")
    parser.add_argument("--openclipart", default=None, help="folder of its packages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kernel-weight", type=float, default=None, help="of the embedder")
    parser.add_argument("--output", default=None, help="picture")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    parameters = {} if args.kernel_weight is None else {"kernel_weight": args.kernel_weight}
    sets = list(emoji(args.features, True))
    if args.photos is not None:
        sets += list(photographs(args.photos, True))[:1]
    if args.openclipart is not None:
        sets += openclipart(args.features, True, args.openclipart)
    found = {}
    for name, features, tags, vectors, labels in sets:
        runs = [measure(features, tags, vectors, labels, seed, parameters) for seed in args.seeds]
        for label in labels:
            title = f"{name.split(',')[0]}, {label}"
            found[title] = {key: np.mean([run[key][label] for run in runs]) for key in runs[0]}
            for (kind, value), figure in found[title].items():
                print(f"{title:28}{kind:16}{value:>8}  {figure:.3f}", flush=True)
    for n in MADE:
        made = make_tagged_images(n + 200, wrong=0.3, missing=0.3, spread=2.5, random_state=0)
        rows, queries = np.arange(n), np.arange(n, n + 200)
        tags = [made.tags[i] for i in rows]
        kinds = {"kind": made.target}
        value = score(made.data, tags, None, kinds, rows, queries, 0, parameters)["kind"]
        print(f"{'made':28}{'images':16}{n:>8}  {value:.3f}", flush=True)
    if args.output:
        draw(found, args.output)


if __name__ == "__main__":
    main()
