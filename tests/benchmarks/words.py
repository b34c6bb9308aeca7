"""Search by words and suggestions of tags, on images that training has not seen.

A fifth of the rows are held out. Each tag that at least 5 of these carry is a query, its carriers
relevant: mAP by exact embeddings and by codes, beside one-against-rest logistic regression on the
same features and kernel ridge regression of the indicator. Five tags are suggested for each of
them: mean over words of precision and recall, F1 of these, and the words found at least once,
beside kernel ridge regression divided by the root of a word's count. The last lines show how often
suggestions of a score are right; ``--curve FILE`` draws it, of the last seed.

``python tests/benchmarks/words.py --features CACHE --photos FILE.npz`` takes the emoji set and
photographs, as ``later.py`` does; what is not there is left out.
"""

import argparse
from pathlib import Path

import numpy as np
from later import emoji, photographs
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows


def mean_average_precision(scores, relevant):
    """mAP of words (columns) over images (rows)."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    return ((precision * hits).sum(axis=0) / hits.sum(axis=0)).mean()


def of_suggestions(scores, relevant, k=5):
    """Precision and recall (means over words), F1, and words found."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    given = np.zeros_like(relevant)
    np.put_along_axis(given, top, 1, axis=1)
    right, asked = (given * relevant).sum(axis=0), relevant.any(axis=0)
    precision = (right / np.maximum(given.sum(axis=0), 1))[asked].mean()
    recall = (right[asked] / relevant.sum(axis=0)[asked]).mean()
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return precision, recall, f1, int((right > 0).sum())


def rivals(train, test, labels):
    """Scores (n, C) of the two rivals."""
    logistic = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=300)).fit(train, labels)
    kernel, against = (np.exp(-2 * (1 - rows @ train.T)) for rows in (train, test))
    mean = labels.mean(axis=0)
    ridge = against @ np.linalg.solve(kernel + np.eye(len(train)), labels - mean) + mean
    return logistic.predict_proba(test), ridge


def measure(name, features, tags, judged, vectors, seed):
    """Print one set's table; return how far its suggestions can be trusted."""
    order = np.random.RandomState(seed).permutation(len(features))
    test, train = order[: len(order) // 5], np.sort(order[len(order) // 5 :])
    own = [tags[i] for i in train]
    print(f"{name}, seed {seed}")
    models = {}
    for n_codebooks in (4, 8):
        embedder = HypersphereEmbedder(TagEnhancer(vectors), random_state=seed)
        model = WSDHQuantizer(embedder, n_codebooks=n_codebooks, random_state=seed)
        models[n_codebooks * 8] = model.fit(features[train], own)
    model = models[32]
    enhancer = model.tag_enhancer_
    labels = enhancer.transform(own).toarray()
    relevant = enhancer.transform([judged[i] for i in test]).toarray()
    inputs = normalize_rows(
        np.sqrt(np.maximum(features, 0)) - np.sqrt(np.maximum(features[train], 0)).mean(axis=0)
    )
    logistic, ridge = rivals(inputs[train], inputs[test], labels)
    words = np.flatnonzero(relevant.sum(axis=0) >= 5)
    asked = [[name] for name in enhancer.concept_names_[words]]
    queries = model.embed_query(tags=asked)
    found = {
        "logistic regression": logistic[:, words],
        "kernel ridge": ridge[:, words],
        "exact": model.transform(features[test]) @ queries.T,
    }
    for bits, other in models.items():
        codes = other.decode(other.encode(features[test]))
        found[f"{bits} bits"] = codes @ other.embed_query(tags=asked).T
    found["exact, concepts"] = model.transform(features[test]) @ enhancer.embed(asked).T
    assert len(CodeIndex(model.codebooks_, model.encode(features[test]))) == len(test)
    for kind, scores in found.items():
        print(f"  search, {kind:24}{mean_average_precision(scores, relevant[:, words]):.3f}")
    counts = np.maximum(labels.sum(axis=0), 1)
    ours = {"ridge / root of count": ridge / np.sqrt(counts)}
    column = {name: c for c, name in enumerate(enhancer.concept_names_)}
    for weight in (0.0, 0.15, 0.5, 1.0):
        names, scores = model.suggest_tags(features[test], 5, prior_weight=weight)
        filled = np.zeros(relevant.shape)
        for row, (chosen, values) in enumerate(zip(names, scores, strict=True)):
            filled[row, [column[name] for name in chosen]] = values + 1
        ours[f"prior_weight={weight}"] = filled
    for kind, scores in ours.items():
        figures = of_suggestions(scores, relevant)
        print(f"  suggest, {kind:23}{'  '.join(f'{x:.3f}' for x in figures[:3])}  {figures[3]}")
    names, scores = model.suggest_tags(features[test], 5)
    agreed = enhancer.transform([tags[i] for i in test]).toarray()
    right = np.array(
        [[agreed[row, column[name]] for name in chosen] for row, chosen in enumerate(names)]
    )
    told = " ".join(f"{score:.2f}:{share:.2f}" for score, share in reliability(scores, right, 6))
    print(f"  score : share that is right  {told}", flush=True)
    return reliability(scores, right, 10)


def reliability(scores, right, n_groups):
    """(mean score, share that is right) of suggestions in groups by their scores."""
    parts = np.array_split(np.argsort(scores, axis=None), n_groups)
    return [(scores.ravel()[part].mean(), right.ravel()[part].mean()) for part in parts]


def draw(curves, path):
    """The share of suggestions that are right against their scores, a line for each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5, 4.5))
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    marks = zip(("#0072B2", "#D55E00", "#009E73"), "os^", strict=True)
    for (name, points), (colour, marker) in zip(curves.items(), marks, strict=False):
        ax.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="score of a suggestion", ylabel="share that is right")
    ax.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=None, help="cache of the emoji set")
    parser.add_argument("--photos", type=Path, default=None, help=".npz file of photographs")
    parser.add_argument("--stages", action="store_true", help="features of several stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--curve", type=Path, default=None, help="picture of the last lines")
    args = parser.parse_args()
    sets, curves = [], {}
    if args.photos is not None and args.photos.exists():
        sets += photographs(args.photos, args.stages)
    if args.features is not None and args.features.exists():
        sets += emoji(args.features, args.stages)
    for name, features, tags, vectors, _ in sets:
        judged = sets[0][2] if name.startswith("photos") else tags
        for seed in args.seeds:
            curves[name] = measure(name, features, tags, judged, vectors, seed)
    if args.curve is not None:
        draw(curves, args.curve)


if __name__ == "__main__":
    main()
