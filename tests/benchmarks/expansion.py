"""mAP of queries joined by the mean of their first results (``n_expansion``), by codes alone.

A tenth of the rows are queries, half of the others are trained on, the rest come later; means over
seeds. Words are looked for among later rows, as in ``words.py``.

``python tests/benchmarks/expansion.py --features CACHE --photos FILE.npz`` takes the emoji set and
photographs, as ``later.py`` does; what is not there is left out.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from later import emoji, photographs
from words import mean_average_precision as of_words

from skwsdhq import TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex
from skwsdhq.search.expansion import expand_queries

N_EXPANSION = (0, 1, 2, 3, 5, 10)


def measure(features, tags, judged, vectors, labels, seed, n_bits):
    """{what is asked for: mAP by n_expansion} of one split."""
    order = np.random.RandomState(seed).permutation(len(features))
    queries, rest = order[: len(order) // 10], order[len(order) // 10 :]
    seen, later = np.sort(rest[: len(rest) // 2]), np.sort(rest[len(rest) // 2 :])
    embedder = TagKernelRegressor(TagEnhancer(vectors), random_state=seed)
    model = WSDHQuantizer(embedder, n_bits=n_bits, random_state=seed)
    model.fit(features[seen], [tags[i] for i in seen])
    asked, enhancer, found = model.transform(features[queries]), model.tag_enhancer_, {}
    for place, rows in (("seen", seen), ("later", later)):
        index = CodeIndex(model.codebooks_, model.encode(features[rows]))
        for label, values in labels.items():
            own = np.asarray(values)[queries], np.asarray(values)[rows]
            found[f"{label}, {place} rows"] = [
                mean_average_precision(expand_queries(asked, index, n), index, *own, top_k=5000)
                for n in N_EXPANSION
            ]
    relevant = enhancer.transform([judged[i] for i in later]).toarray()
    words = np.flatnonzero(relevant.sum(axis=0) >= 5)
    asked, decoded = enhancer.concept_vectors_[words], index.reconstruct()
    found["words, later rows"] = [
        of_words(decoded @ expand_queries(asked, index, n).T, relevant[:, words])
        for n in N_EXPANSION
    ]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=None, help="cache of the emoji set")
    parser.add_argument("--photos", type=Path, default=None, help=".npz file of photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    sets = []
    if args.photos is not None and args.photos.exists():
        sets += photographs(args.photos, stages=False)
    if args.features is not None and args.features.exists():
        sets += emoji(args.features, stages=False)
    print(f"{'n_expansion':48}{'  '.join(f'{n:5}' for n in N_EXPANSION)}  splits that lose at 2")
    for name, features, tags, vectors, labels in sets:
        judged = sets[0][2] if name.startswith("photos") else tags
        for n_bits in (32, 16):
            rows = defaultdict(list)
            for seed in args.seeds:
                found = measure(features, tags, judged, vectors, labels, seed, n_bits)
                for kind, values in found.items():
                    rows[kind].append(values)
            for kind, values in rows.items():
                values = np.array(values)
                told = "  ".join(f"{x:.3f}" for x in values.mean(axis=0))
                n_lost = (values[:, 2] < values[:, 0]).sum()
                row = f"{name}, {n_bits} bits, {kind}"
                print(f"{row:48}{told}  {n_lost}", flush=True)


if __name__ == "__main__":
    main()
