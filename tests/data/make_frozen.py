"""Write a model in the present format, which all later versions have to load.

Run once for each format number, when it is new: ``python tests/data/make_frozen.py``. A file
whose format has been released is never written again.
"""

from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer
from skwsdhq.persistence import FORMAT, save

HERE = Path(__file__).parent


def main():
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
    # Large steps of the codes: rounding in other processors' products should not move them.
    embedder = HypersphereEmbedder(
        TagEnhancer(vectors), hidden_layer_sizes=(4,), max_iter=20, learning_rate=0.01,
        random_state=0,
    )  # fmt: skip
    shape = {"n_codebooks": 2, "n_codewords": 4, "random_state": 0}
    together = WSDHQuantizer(embedder, metric_mix=0.5, **shape).fit(features, tags)
    pipeline = Pipeline(
        [
            ("images", ImageLoader()),
            ("embedder", embedder),
            ("quantizer", WSDHQuantizer("passthrough", **shape)),
        ]
    ).fit(features, tags)
    save(together, HERE / f"format_{FORMAT}_quantizer.safetensors")
    save(pipeline, HERE / f"format_{FORMAT}_pipeline.safetensors")
    np.savez(
        HERE / f"format_{FORMAT}_expected.npz",
        features=features,
        concepts=together.tag_enhancer_.transform(tags).toarray(),
        tags=np.array([" ".join(row) for row in tags]),
        quantizer_embeddings=together.transform(features),
        quantizer_codes=together.encode(features),
        pipeline_embeddings=pipeline[:-1].transform(features),
        pipeline_codes=pipeline[-1].encode(pipeline[:-1].transform(features)),
    )


if __name__ == "__main__":
    main()
