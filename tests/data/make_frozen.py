"""Write models of every kind in the present format, which all later versions have to load.

Run once for each format number, when nothing of it will change any more:
``python tests/data/make_frozen.py``. A file whose format has been released is never written again.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer
from skwsdhq.embedding import (
    AdamSchedule,
    EarlyStopping,
    FeatureScaler,
    FineTuning,
    TagKernelRegressor,
)
from skwsdhq.losses import FixedMargin
from skwsdhq.persistence import FORMAT, save

HERE = Path(__file__).parent
NETWORK = "efficientnet_lite0"
OF_PICTURES = ("tuned", "loader")  # kinds whose input is pictures, not features


def data():
    """Return features (24, 8), tags, word vectors, and pictures (8, 32, 32, 3) of the first."""
    rng = np.random.default_rng(0)
    groups = rng.integers(4, size=24)
    features = np.eye(8)[groups] + 0.1 * rng.standard_normal((24, 8))
    words = [["cat", "kitten"], ["dog", "puppy"], ["car", "road"], ["tree", "leaf"]]
    tags = [words[g] if n % 3 else words[g][:1] for n, g in enumerate(groups)]
    vectors = {
        word: np.eye(4)[g] + 0.3 * rng.standard_normal(4)
        for g, pair in enumerate(words)
        for word in pair
    }
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 60]])
    pictures = np.zeros((8, 32, 32, 3)) + colours[groups[:8], None, None]
    pictures += rng.integers(40, size=pictures.shape)
    return features, tags, vectors, pictures.astype(np.uint8)


def embedder(vectors, **parameters):
    """Return one that learns in large steps: other processors' rounding moves no code."""
    given = {
        "hidden_layer_sizes": (4,),
        "max_iter": 20,
        "learning_rate": 0.01,
        "random_state": 0,
        **parameters,
    }
    return HypersphereEmbedder(TagEnhancer(vectors), **given)


def quantizer(first, **parameters):
    """Return one of two codebooks of four codewords."""
    return WSDHQuantizer(first, n_codebooks=2, n_codewords=4, random_state=0, **parameters)


def tuned(vectors, pictures, tags):
    """Return an embedder whose network has learned; of that, all but matrices is left out."""
    model = embedder(
        vectors,
        backbone=NETWORK,
        finetune=FineTuning("last", head_iter=2, crop_size=64),
        max_iter=2,
    ).fit(pictures, tags)
    # Matrices are megabytes. A network that has learned nothing but biases and scales is one too.
    state = {name: array for name, array in model.backbone_state_.items() if array.ndim == 1}
    model.backbone_state_ = dict(list(state.items())[-4:])
    return model


def of_parts(vectors):
    """Return an embedder all of whose parts are given, and none the default one."""
    return embedder(
        vectors,
        loss=FixedMargin(0.4, n_hard_negatives=5),
        kernel=TagKernelRegressor(gamma=1.5, alpha=0.5, consistency=1.0, max_landmarks=20),
        scaler=FeatureScaler(0.7),
        optimizer=AdamSchedule(0.9, n_drops=1, weight_decay=0.01, max_grad_norm=5.0),
        early_stopping=EarlyStopping(0.2, n_iter_no_change=20),
    )


def models():
    """Return fitted models by the name of their kind."""
    features, tags, vectors, pictures = data()
    steps = [
        ("images", ImageLoader()),
        ("embedder", embedder(vectors)),
        ("quantizer", quantizer("passthrough")),
    ]
    fixed = FrozenEstimator(embedder(vectors).fit(features, tags))
    goes_on = quantizer(embedder(vectors)).partial_fit(features, tags)
    return {
        "quantizer": quantizer(embedder(vectors), metric_mix=0.5).fit(features, tags),
        "pipeline": Pipeline(steps).fit(features, tags),
        "embeddings": quantizer("passthrough").fit(features),
        "frozen": quantizer(fixed).fit(features, tags),
        "kernel_alone": quantizer(embedder(vectors, kernel_weight=1)).fit(features, tags),
        "network_alone": quantizer(embedder(vectors, kernel_weight=0)).fit(features, tags),
        "parts": quantizer(of_parts(vectors)).fit(features, tags),
        "regressor": quantizer(TagKernelRegressor(TagEnhancer(vectors), random_state=0)).fit(
            features, tags
        ),
        "unnormalised": quantizer(embedder(vectors), normalize=False).fit(features, tags),
        "partial": goes_on.partial_fit(features, tags),
        "tuned": tuned(vectors, pictures, tags[:8]),
        "enhancer": TagEnhancer(vectors).fit(tags),
        "loader": ImageLoader(NETWORK, size=64).fit(pictures),
    }


def facts(kind, model, features, pictures, tags):
    """Return what a model gives, as arrays by name."""
    if kind == "enhancer":
        return {"concepts": model.transform(tags).toarray()}
    rows = pictures if kind in OF_PICTURES else features
    if isinstance(model, Pipeline):
        rows, model = model[:-1].transform(rows), model[-1]
        return {"embeddings": rows, "codes": model.encode(rows)}
    found = {"embeddings": model.transform(rows)}
    if hasattr(model, "codes_"):
        found["codes"] = model.encode(rows)
    return found


def main(folder=HERE):
    """Write a file for each kind of model, and one of what they give."""
    features, tags, _, pictures = data()
    expected = {
        "features": features,
        "pictures": pictures,
        "tags": np.array([" ".join(row) for row in tags]),
    }
    for kind, model in models().items():
        save(model, Path(folder) / f"format_{FORMAT}_{kind}.safetensors")
        for name, array in facts(kind, model, features, pictures, tags).items():
            expected[f"{kind}_{name}"] = array
    np.savez_compressed(Path(folder) / f"format_{FORMAT}_expected.npz", **expected)


if __name__ == "__main__":
    main(*sys.argv[1:])
