"""What a user may write, for mypy in its strict mode; `mypy` checks it, nothing runs it."""

from pathlib import Path

import numpy as np

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer, load
from skwsdhq.backbones import extract_features
from skwsdhq.codebooks import decode, encode
from skwsdhq.datasets import load_emoji, make_tagged_images
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex


def search(folder: Path) -> tuple[float, np.ndarray]:
    made = make_tagged_images(200, random_state=0)
    emoji = load_emoji()
    features: np.ndarray = extract_features(emoji.images)
    enhancer = TagEnhancer(emoji.word_vectors, min_count=2, n_neighbors=None)
    embedder = HypersphereEmbedder(enhancer, hidden_layer_sizes=(64,), random_state=0)
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, beam_size=None, random_state=0)
    quantizer = quantizer.fit(made.data, made.tags)
    codes: np.ndarray = quantizer.encode(made.data)
    again = encode(quantizer.transform(made.data), quantizer.codebooks_)
    rows: np.ndarray = decode(again, quantizer.codebooks_)
    index = CodeIndex(quantizer.codebooks_, codes)
    similarities, ids = index.search(features, 5)
    quantizer.save(folder / "model.safetensors")
    loaded = load(folder / "model.safetensors")
    labels = made.target
    score: float = mean_average_precision(rows, index, labels, labels, top_k=100)
    return score + quantizer.score(made.data, made.tags), loaded.encode(ids * similarities)
