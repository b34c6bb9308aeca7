"""mAP of images that training saw and of images that came later, with and without their tags.

A tenth of the rows are queries, half of the others are trained on, the rest come later. Queries
never have tags. ``python tests/benchmarks/later.py --features CACHE --photos FILE.npz`` takes the
emoji set (features kept in CACHE) and, where it is given, a set of photographs: ``features`` and
``theme`` in an ``.npz`` file, lists ``tags`` and ``tags_noisy`` in the ``.json`` file beside it.
With ``--openclipart FOLDER`` it takes openclipart, too. With ``--stages`` features are those of
several stages of the network; the ``.npz`` file has them as ``stages``, the mean and the maximum of
blocks of 80, 112, 192 and 320 channels.

``--methods "WDHT loss .7, our codes" CCA-ITQ RQ`` measures methods of ``quality.py``
alike. Rivals' networks have no way to take the tags of later rows.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from _quality_methods import METHODS, Split
from quality import of_stages, prepare, read, word_vectors

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision

TOP_K = 5000

ROWS = ("seen", "later", "later, tags")


def emoji(cache, stages):
    """Features, tags, word vectors and the two kinds of labels of the emoji set."""
    network = "stages:efficientnet_lite0" if stages else "efficientnet_lite0"
    prepare("emoji", network, cache, None)
    features, tags, labels = read("emoji", network, cache)
    yield "emoji", features, tags, load_emoji().word_vectors, labels


def openclipart(cache, stages, folder):
    """The same of openclipart."""
    network = "stages:efficientnet_lite0" if stages else "efficientnet_lite0"
    prepare("openclipart", network, cache, folder)
    features, tags, labels = read("openclipart", network, cache)
    yield "openclipart", features, tags, word_vectors(""), labels


def photographs(path, stages):
    """The same of a set of photographs, with tags as they are and noisy ones."""
    arrays = np.load(path)
    names = json.loads(Path(path).with_suffix(".json").read_text())
    features = of_stages(arrays) if stages else arrays["features"].astype(np.float32)
    for kind in ("tags", "tags_noisy"):
        yield f"photos, {kind}", features, names[kind], None, {"theme": arrays["theme"]}


def ours(parameters):
    """The default, with parameters of its embedder."""

    def method(split, bits):
        embedder = HypersphereEmbedder(
            TagEnhancer(split.word_vectors), kernel=TagKernelRegressor(), random_state=split.seed
        ).set_params(**parameters)
        quantizer = WSDHQuantizer(embedder, random_state=split.seed)
        return METHODS["ours"](split, bits, quantizer)

    return method


def scores(features, tags, vectors, labels, seed, method, bits):
    """mAP by label, bits and kind of row: {(label, bits, row): mAP}."""
    order = np.random.RandomState(seed).permutation(len(features))
    n_queries = len(order) // 10
    queries, rest = order[:n_queries], order[n_queries:]
    seen, later = np.sort(rest[: len(rest) // 2]), np.sort(rest[len(rest) // 2 :])
    split = Split(
        features[seen],
        [tags[i] for i in seen],
        features[queries],
        vectors,
        seed,
        later=features[later],
        later_tags=[tags[i] for i in later],
    )
    found = {}
    for n_bits, asked, databases in method(split, bits):
        for row, database in zip(ROWS, databases, strict=False):
            rows = seen if row == "seen" else later
            for label, values in labels.items():
                found[label, n_bits, row] = mean_average_precision(
                    asked, database, values[queries], values[rows], top_k=TOP_K
                )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features"), help="cache")
    parser.add_argument("--photos", default=None, help=".npz file of photographs")
    parser.add_argument("--openclipart", default=None, help="folder of its packages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, nargs="+", default=[32])
    parser.add_argument("--stages", action="store_true", help="of the network, too")
    parser.add_argument("--methods", nargs="+", default=["ours"], help="of quality.py")
    parser.add_argument(
        "--param", nargs="*", default=[], help="of our embedder, as kernel__specificity=0"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    given = (text.partition("=") for text in args.param)
    parameters = {name: json.loads(value) for name, _, value in given}
    sets = list(emoji(args.features, args.stages))
    if args.photos is not None:
        sets += photographs(args.photos, args.stages)
    if args.openclipart is not None:
        sets += openclipart(args.features, args.stages, args.openclipart)
    print(f"{'':28}{'':26}{'':10}" + "  ".join(ROWS))
    for name, features, tags, vectors, labels in sets:
        for method in args.methods:
            make = ours(parameters) if method == "ours" else METHODS[method]
            runs = [
                scores(features, tags, vectors, labels, seed, make, args.bits)
                for seed in args.seeds
            ]
            for label, n_bits in dict.fromkeys(key[:2] for key in runs[0]):
                lines = [
                    [run[label, n_bits, row] for run in runs]
                    for row in ROWS
                    if (label, n_bits, row) in runs[0]
                ]
                figures = "  ".join(f"{np.mean(line):.3f} ± {np.std(line):.3f}" for line in lines)
                place = f"{n_bits} bits" if n_bits else "exact"
                print(f"{name + ', ' + label:28}{method:26}{place:10}{figures}", flush=True)


if __name__ == "__main__":
    main()
