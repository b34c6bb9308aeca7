"""mAP on the emoji set over several splits, beside faiss's quantizers on the same features.

    python tests/benchmarks/emoji.py [--seeds 0 1 2] [--features FILE.npy]

A tenth of the pictures are queries. Prints, for groups / subgroups, the uncompressed embedding,
codes of 8 to 32 bits (embedder first, codebooks after it; and both together at 32 bits), and the
best of faiss's PQ, OPQ, RQ and LSQ at 32 bits on centred unit features, as they are (PQ, RQ) and
reduced to 64 principal components (all four).
"""

import argparse
import warnings

import faiss
import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.backbones import extract_features
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows


def faiss_codes(method, rows, n_bytes=4):
    """What a quantizer of faiss makes of rows."""
    n_dims = rows.shape[1]
    if method == "OPQ":
        rotation = faiss.OPQMatrix(n_dims, n_bytes)
        inner = faiss.ProductQuantizer(n_dims, n_bytes, 8)
        inner.cp.min_points_per_centroid = 1
        rotation.pq = inner
        rotation.train(rows)
        return rotation.reverse_transform(faiss_codes("PQ", rotation.apply(rows), n_bytes))
    kind = {
        "PQ": faiss.ProductQuantizer,
        "RQ": faiss.ResidualQuantizer,
        "LSQ": faiss.LocalSearchQuantizer,
    }[method]
    quantizer = kind(n_dims, n_bytes, 8)
    if method != "LSQ":
        quantizer.cp.min_points_per_centroid = 1  # else it warns of small sets
    quantizer.train(rows)
    return quantizer.decode(quantizer.compute_codes(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--features", default="")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    emoji = load_emoji()
    features = np.load(args.features) if args.features else extract_features(emoji.images, n_jobs=2)
    for seed in args.seeds:
        database, queries = train_test_split(
            np.arange(len(features)), test_size=0.1, random_state=seed
        )

        def score(query_rows, rows, database=database, queries=queries):
            labels = (emoji.target, emoji.subgroup)
            return np.array(
                [mean_average_precision(query_rows, rows, y[queries], y[database]) for y in labels]
            )

        def show(name, figures, seed=seed):
            print(f"seed {seed}  {name:22s} {figures[0]:.3f} / {figures[1]:.3f}", flush=True)

        X, tags = features[database], [emoji.tags[i] for i in database]
        enhancer = TagEnhancer(emoji.word_vectors, min_count=5)
        embedder = HypersphereEmbedder(enhancer, random_state=seed).fit(X, tags)
        asked, rows = embedder.transform(features[queries]), embedder.transform(X)
        show("uncompressed", score(asked, rows))
        for n_codebooks in (1, 2, 3, 4):
            quantizer = WSDHQuantizer("passthrough", n_codebooks=n_codebooks, random_state=seed)
            quantizer.fit(rows)
            found = score(asked, CodeIndex(quantizer.codebooks_, quantizer.codes_))
            show(f"{8 * n_codebooks} bits", found)
        joint = WSDHQuantizer(tag_enhancer=enhancer, random_state=seed).fit(X, tags)
        index = CodeIndex(joint.codebooks_, joint.codes_)
        show("32 bits, joint", score(joint.transform(features[queries]), index))

        centred = normalize_rows(features - X.mean(axis=0))
        reduced = normalize_rows(PCA(64, random_state=0).fit(centred[database]).transform(centred))
        best = {}
        for plain, methods in ((centred, ("PQ", "RQ")), (reduced, ("PQ", "OPQ", "RQ", "LSQ"))):
            plain = np.ascontiguousarray(plain, dtype=np.float32)
            for method in methods:
                decoded = np.ascontiguousarray(faiss_codes(method, plain[database]))
                best[f"{method}, {plain.shape[1]}"] = score(plain[queries], decoded)
        name = max(best, key=lambda name: best[name][0])
        show(f"faiss {name} dims", best[name])
        print(f"seed {seed}  groups at 32 bits above it: {found[0] - best[name][0]:+.3f}")


if __name__ == "__main__":
    main()
