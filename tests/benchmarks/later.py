"""mAP of images that training saw and of images that came later, with and without their tags.

A tenth of the rows are queries, half of the others are trained on, the rest come later. Queries
never have tags. ``python tests/benchmarks/later.py --features CACHE --photos FILE.npz`` takes the
emoji set (features kept in CACHE) and, where it is given, a set of photographs: ``features`` and
``theme`` in an ``.npz`` file, lists ``tags`` and ``tags_noisy`` in the ``.json`` file beside it.
With ``--stages`` features are those of several stages of the network; the ``.npz`` file has them
as ``stages``, the mean and the maximum of blocks of 80, 112, 192 and 320 channels.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from quality import prepare, read

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex

TOP_K = 5000


CHANNELS = (80, 112, 192, 320)


def emoji(cache, stages):
    """Features, tags, word vectors and the two kinds of labels of the emoji set."""
    network = "stages:efficientnet_lite0" if stages else "efficientnet_lite0"
    prepare("emoji", network, cache, None)
    features, tags, labels = read("emoji", network, cache)
    yield "emoji", features, tags, load_emoji().word_vectors, labels


def of_stages(arrays):
    """Features of the last layer and of the stages, each part of one sum as backbones give it."""
    ends = np.cumsum(np.repeat(CHANNELS, 2))[:-1]
    parts = [arrays["features"], *np.split(arrays["stages"], ends, axis=1)]
    parts = [part.astype(np.float32) for part in parts]
    return np.hstack([1000 * part / np.abs(part).sum(axis=1, keepdims=True) for part in parts])


def photographs(path, stages):
    """The same of a set of photographs, with tags as they are and noisy ones."""
    arrays = np.load(path)
    names = json.loads(Path(path).with_suffix(".json").read_text())
    features = of_stages(arrays) if stages else arrays["features"].astype(np.float32)
    for kind in ("tags", "tags_noisy"):
        yield f"photos, {kind}", features, names[kind], None, {"theme": arrays["theme"]}


def scores(features, tags, vectors, labels, seed, parameters):
    """mAP by label, place and kind of row: {(label, place, row): mAP}."""
    order = np.random.RandomState(seed).permutation(len(features))
    n_queries = len(order) // 10
    queries, rest = order[:n_queries], order[n_queries:]
    seen, later = np.sort(rest[: len(rest) // 2]), np.sort(rest[len(rest) // 2 :])

    def of(rows):
        return [tags[i] for i in rows]

    embedder = HypersphereEmbedder(
        TagEnhancer(vectors), kernel=TagKernelRegressor(), random_state=seed
    ).set_params(**parameters)
    model = WSDHQuantizer(embedder, random_state=seed)
    model.fit(features[seen], of(seen))
    asked = model.transform(features[queries])
    found = {}
    for row, rows, own in [
        ("seen", seen, None),
        ("later", later, None),
        ("later, tags", later, of(later)),
    ]:
        exact = model.transform(features[rows], tags=own)
        codes = CodeIndex(model.codebooks_, model.encode(features[rows], tags=own))
        for label, values in labels.items():
            for place, database in [("exact", exact), ("32 bits", codes)]:
                found[label, place, row] = mean_average_precision(
                    asked, database, values[queries], values[rows], top_k=TOP_K
                )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features"), help="cache")
    parser.add_argument("--photos", default=None, help=".npz file of photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stages", action="store_true", help="of the network, too")
    parser.add_argument(
        "--param", nargs="*", default=[], help="of the embedder, as kernel__specificity=0"
    )
    args = parser.parse_args()
    given = (text.partition("=") for text in args.param)
    parameters = {name: json.loads(value) for name, _, value in given}
    sets = list(emoji(args.features, args.stages))
    if args.photos is not None:
        sets += photographs(args.photos, args.stages)
    print(f"{'':28}{'':10}  seen  later  later, tags")
    for name, features, tags, vectors, labels in sets:
        runs = [scores(features, tags, vectors, labels, seed, parameters) for seed in args.seeds]
        for label in labels:
            for place in ("exact", "32 bits"):
                line = [
                    np.mean([run[label, place, row] for run in runs])
                    for row in ("seen", "later", "later, tags")
                ]
                figures = "  ".join(f"{value:.3f}" for value in line)
                print(f"{name + ', ' + label:28}{place:10}{figures}", flush=True)


if __name__ == "__main__":
    main()
