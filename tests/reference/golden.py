"""Models of every kind, fitted small: what they learn should stay as the code moves.

``python -m tests.reference.golden write FILE`` keeps what they learn here; ``compare FILE`` says
where this machine gives something else now, to the bit. ``tests/test_golden.py`` holds the file
of another machine against this one's, as closely as machines agree.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.backbones import Backbone
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import FineTuning


def _network() -> Backbone:
    """A small convolution with weights that are written down, not drawn."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(1)
    )
    for parameter in module.parameters():
        n = parameter.numel()
        values = np.sin(np.arange(1, n + 1, dtype=np.float32) * 1.7) / np.sqrt(parameter[0].numel())
        parameter.data.copy_(parameter.new_tensor(values).reshape(parameter.shape))
    return Backbone(module, size=24, mean=(127.0,) * 3, std=(60.0,) * 3)


def _features() -> tuple[np.ndarray, list]:
    made = make_tagged_images(240, n_features=24, random_state=3)
    return made.data.astype(np.float32), made.tags


def _pictures() -> tuple[np.ndarray, list]:
    features, tags = _features()
    features = features[:60]
    scaled = (features - features.min()) / np.ptp(features)
    flat = np.kron(scaled, np.ones((1, 98)))[:, : 28 * 28 * 3] * 255
    return flat.reshape(-1, 28, 28, 3).astype(np.uint8), tags[:60]


def _enhancer() -> TagEnhancer:
    """Return one whose vectors are given: learned ones turn about from machine to machine."""
    vectors = make_tagged_images(240, n_features=24, random_state=3).word_vectors
    return TagEnhancer(vectors, cooccurrence_weight=0, remove_components=None)


def _embedder(**parameters: Any) -> HypersphereEmbedder:
    given: dict[str, Any] = {
        "hidden_layer_sizes": (16,), "max_iter": 6, "batch_size": 64, "random_state": 0,
        "kernel": TagKernelRegressor(alpha=1.0, specificity=0.0), "kernel_weight": 0.8,
    }  # fmt: skip
    return HypersphereEmbedder(_enhancer(), **{**given, **parameters})


def _quantizer(embedder: Any, **parameters: Any) -> WSDHQuantizer:
    given = {"n_codebooks": 2, "n_codewords": 8, "codebook_iters": 4, "random_state": 0}
    return WSDHQuantizer(embedder, **{**given, **parameters})


def _facts(model: Any, X: Any, tags: Any = None) -> dict[str, np.ndarray]:
    """What a fitted model holds and gives, as arrays by name."""
    inner = getattr(model, "embedder_", model)
    found = {"transform": model.transform(X)}
    if tags is not None:
        found["transform_tags"] = model.transform(X, tags=tags)
    if inner is not model:
        found |= {"codes": model.codes_, "codebooks": model.codebooks_, "encode": model.encode(X)}
        for name, values in model.history_.items():
            found[f"quantizer.{name}"] = np.array(values)
    if isinstance(inner, str):
        return found
    for name, values in inner.history_.items():
        found[f"history.{name}"] = np.array(values)
    for n, (weights, bias) in enumerate(zip(inner.coefs_, inner.intercepts_, strict=True)):
        found |= {f"coefs.{n}": weights, f"intercepts.{n}": bias}
    for name, value in inner.kernel_.items():
        found[f"kernel.{name}"] = np.asarray(value)
    for name, array in inner.backbone_state_.items():
        found[f"backbone.{name}"] = array
    return found


def _default() -> dict:
    X, tags = _features()
    return _facts(_quantizer(_embedder()).fit(X, tags), X, tags)


def _network_alone() -> dict:
    X, tags = _features()
    model = _embedder(kernel_weight=0, loss="wdht", early_stopping=True)
    return _facts(_quantizer(model).fit(X, tags), X)


def _kernel_alone() -> dict:
    X, tags = _features()
    model = _quantizer(_embedder(kernel_weight=1)).fit(X, tags)
    found = {"transform": model.transform(X), "codes": model.codes_}
    found["landmarks"] = model.embedder_.kernel_["landmarks"]
    found["coefs"] = model.embedder_.kernel_["coefs"]
    return found


def _warm() -> dict:
    X, tags = _features()
    model = _quantizer(_embedder(), warm_start=True).fit(X, tags)
    return _facts(model.fit(X, tags), X)


def _partial() -> dict:
    X, tags = _features()
    model = _quantizer(_embedder(kernel_weight=0.5))
    return _facts(model.partial_fit(X, tags).partial_fit(X[:120], tags[:120]), X)


def _tuned() -> dict:
    X, tags = _pictures()
    embedder = _embedder(
        backbone=_network(),
        finetune=FineTuning("all", dtype="float32"),
        max_iter=2,
        batch_size=20,
    )
    return _facts(_quantizer(embedder).fit(X, tags), X)


def _paper() -> dict:
    X, tags = _features()
    model = WSDHQuantizer.from_paper(
        make_tagged_images(240, n_features=24, random_state=3).word_vectors,
        mode="code",
        finetune=None,
        n_bits=16,
        n_codewords=8,
        random_state=0,
        embedder__max_iter=4,
        embedder__hidden_layer_sizes=(16,),
    )
    return _facts(model.fit(X, tags), X)


def _embeddings() -> dict:
    X, _ = _features()
    return _facts(_quantizer("passthrough").fit(X), X)


MODELS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "default": _default,
    "network alone": _network_alone,
    "kernel alone": _kernel_alone,
    "warm start": _warm,
    "partial fit": _partial,
    "tuned": _tuned,
    "paper": _paper,
    "embeddings": _embeddings,
}


def learned() -> dict[str, np.ndarray]:
    """Return what all models learn, by their name and the array's."""
    return {f"{kind}: {k}": v for kind, make in MODELS.items() for k, v in make().items()}


def summary(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what all machines agree on: similarities of some rows, and the course of losses."""
    rows = np.asarray(found["transform"][:40], dtype=np.float64)
    kept = {"similarities": rows @ rows.T}
    for name, values in found.items():
        if name.endswith((".loss", ".learning_rate", ".validation_loss", "_error")):
            kept[name] = np.asarray(values, dtype=np.float64)
    return {name: array.astype(np.float32) for name, array in kept.items()}


def main(task: str, path: str) -> int:
    """Write a file, or print what differs from one; returns the number of differences."""
    now = learned()
    if task == "write":
        np.savez_compressed(path, **now)
        return 0
    with np.load(path) as kept:
        before = dict(kept)
    n_other = 0
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            print(f"{name}: only {'now' if old is None else 'before'}")
        elif not np.array_equal(old, new, equal_nan=True):
            same = old.shape == new.shape
            print(f"{name}: {np.abs(old - 1.0 * new).max() if same else (old.shape, new.shape)}")
        else:
            continue
        n_other += 1
    print(f"{len(now)} arrays, {n_other} differ")
    return n_other


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) > 0)
