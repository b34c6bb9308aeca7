"""What the first codewords of a code are worth, by the weight that prefixes had in learning.

    python tests/benchmarks/prefixes.py [--features FILE.npy]

Held-out error and quality of 8, 16 and 24 bits of a 32-bit code beside codes learned at that
length: mAP of groups on the emoji set, embedded by the default embedder (a tenth are queries;
features are extracted unless a file of them is given); on 20,000 × 300 mixtures of tags, how many
of the ten nearest rows by exact embeddings are among the hundred nearest by code, and how many are
among the ten nearest of the whole code over a shortlist that 8 or 16 bits chose.
"""

import argparse
import warnings

import _harness  # noqa: F401 - before numpy: sets the number of threads
import numpy as np
import speed

from skwsdhq import codebooks
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex

WEIGHTS = (0.0, 0.1, 0.25, 1.0)


def emoji_problem(path):
    """Embeddings of database and queries, and what codes score."""
    from sklearn.model_selection import train_test_split

    from skwsdhq import HypersphereEmbedder, TagEnhancer
    from skwsdhq.backbones import extract_features
    from skwsdhq.datasets import load_emoji

    emoji = load_emoji()
    X = np.load(path) if path else extract_features(emoji.images, n_jobs=2)
    database, queries = train_test_split(np.arange(len(X)), test_size=0.1, random_state=0)
    embedder = HypersphereEmbedder(TagEnhancer(emoji.word_vectors, min_count=5), random_state=0)
    embedder.fit(X[database], [emoji.tags[i] for i in database])
    rows, asked = embedder.transform(X[database]), embedder.transform(X[queries])

    def score(index):
        labels = emoji.target[queries], emoji.target[database]
        return {"mAP": mean_average_precision(asked, index, *labels)}

    return rows, asked, score


def mixture_problem():
    rows = speed.make_vectors("tags", 25_000)
    rows, held = rows[:20_000], rows[20_000:]
    asked = held[:500]
    nearest = np.argpartition(-(asked @ rows.T), 10, axis=1)[:, :10]

    def recall(found):
        return np.mean([np.isin(a, b).mean() for a, b in zip(nearest, found, strict=True)])

    def score(index):
        scores = {"in 100": recall(index.search(asked, 100)[1])}
        if len(index.codebooks) == 4:
            scores["in 10"] = recall(index.search(asked, 10)[1])
            for prefix in (1, 2):
                for shortlist in (100, 1000):
                    options = {"n_codebooks": prefix, "shortlist": shortlist}
                    name = f"in 10, {8 * prefix} bits choose {shortlist}"
                    scores[name] = recall(index.search(asked, 10, **options)[1])
        return scores

    return rows, held, score


def show(name, rows, held, words, score, prefix_weight, lengths):
    options = {"beam_size": 8, "prefix_weight": prefix_weight, "random_state": 0}
    codes = codebooks.encode(rows, words, **options)
    held_codes = codebooks.encode(held, words, **options)
    for length in lengths:
        error = codebooks.quantization_error(held, held_codes[:, :length], words[:length])
        scores = score(CodeIndex(words[:length], codes[:, :length]))
        figures = ", ".join(f"{key} {value:.3f}" for key, value in scores.items())
        print(f"  {name:22} {8 * length:2} bits  error {error:.4f}, {figures}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name, problem in (
        ("emoji", emoji_problem(options.features)),
        ("mixtures of tags", mixture_problem()),
    ):
        rows, held, score = problem
        print(f"{name}: {len(rows):,} rows of {rows.shape[1]} dimensions")
        for weight in WEIGHTS:
            words, _ = codebooks.learn_codebooks(rows, 4, 256, prefix_weight=weight, random_state=0)
            show(f"prefix_weight {weight}", rows, held, words, score, weight, (1, 2, 3, 4))
        for length in (1, 2, 3):
            words, _ = codebooks.learn_codebooks(rows, length, 256, random_state=0)
            show("learned at this length", rows, held, words, score, 0.0, (length,))


if __name__ == "__main__":
    main()
