"""The methods that quality.py compares, each a function that yields what it makes of a split.

A method takes a `Split` and the numbers of bits that are wanted, and yields for each
(bits, query vectors, database): bits 0 is what there is before it is compressed, the database is a
matrix of vectors or a CodeIndex, and both are compared by inner product. What can be learned once
for all numbers of bits is. Where a split has rows that came after training, the database is a
tuple: of the rows trained on, of the later ones, and where the method takes tags then too, of these
with their tags.
"""

from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import torch
from sklearn.decomposition import PCA

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.baselines import CCAITQ, WDHTHasher
from skwsdhq.codebooks import learn_codebooks
from skwsdhq.embedding import AdamSchedule, EarlyStopping, FeatureScaler, FineTuning
from skwsdhq.losses import Contrastive, MeanTagHinge
from skwsdhq.losses.objects import loss_of
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows
from skwsdhq.training.fixed import FixedInputs
from skwsdhq.training.loop import Lesson, run_epoch
from skwsdhq.training.network import build_network, forward, network_arrays
from skwsdhq.training.optimizer import Steps, parameter_groups
from skwsdhq.training.scaling import prepare_inputs


@dataclass
class Split:
    """Features and tags of the database (training) rows, and features of the queries."""

    X: np.ndarray
    tags: list
    queries: np.ndarray
    word_vectors: Any
    seed: int
    parameters: dict = field(default_factory=dict)  # of "ours"
    later: np.ndarray | None = None  # features of rows that came after training
    later_tags: list | None = None

    def databases(self, of):
        """What a function of features makes of the rows trained on, and of later ones."""
        return of(self.X) if self.later is None else (of(self.X), of(self.later))


# --- unsupervised ---------------------------------------------------------------------------


def centring(split):
    """What takes features to unit rows about the mean of those trained on."""
    mean = split.X.mean(axis=0)
    return lambda X: normalize_rows(X - mean).astype(np.float32)


def reducing(split, n_dims=64):
    """What takes features to unit rows of their principal components."""
    centre = centring(split)
    pca = PCA(n_dims, svd_solver="covariance_eigh").fit(centre(split.X))

    def reduce(X):
        rows = normalize_rows(pca.transform(centre(X))).astype(np.float32)
        return np.ascontiguousarray(rows)

    return reduce


def features(split, bits):
    centre = centring(split)
    yield 0, centre(split.queries), split.databases(centre)


def features_pca(split, bits):
    reduce = reducing(split)
    yield 0, reduce(split.queries), split.databases(reduce)


def distinct(decoded):
    """A CodeIndex over decoded rows, so that rows of equal codes tie exactly."""
    rows, places = np.unique(decoded, axis=0, return_inverse=True)
    return CodeIndex(rows[None], places.reshape(-1, 1))


def unsupervised(kind):
    def method(split, bits):
        reduce = reducing(split)
        rows = reduce(split.X)
        for n_bits in bits:
            ask, code = _faiss_codes(kind, rows, n_bits)
            yield (
                n_bits,
                ask(reduce(split.queries)),
                split.databases(lambda X, code=code: code(reduce(X))),
            )

    return method


def _faiss_codes(kind, rows, n_bits):
    """What takes reduced rows to queries, and what takes them to a database."""
    n_dims, n_bytes = rows.shape[1], n_bits // 8
    if kind == "LSH":
        index = faiss.IndexLSH(n_dims, n_bits, True, True)
        index.train(rows)
        return (lambda x: _signs(index.sa_encode(x)),) * 2
    if kind == "ITQ":
        itq = faiss.ITQTransform(n_dims, n_bits, True)
        itq.train(rows)
        return (lambda x: np.where(itq.apply(x) >= 0, 1, -1).astype("f4"),) * 2

    # A width that any number of subspaces divides: 3 do not divide 64.
    def widen(x):
        return np.pad(x, ((0, 0), (0, -n_dims % n_bytes)))

    wide, turn = widen(rows), widen
    if kind == "OPQ":
        rotation = faiss.OPQMatrix(wide.shape[1], n_bytes)
        inner = faiss.ProductQuantizer(wide.shape[1], n_bytes, 8)
        inner.cp.min_points_per_centroid = 1
        rotation.pq = inner
        rotation.train(wide)
        wide = rotation.apply(wide)

        def turn(x):
            return rotation.apply(widen(x))

    quantizer = {
        "PQ": faiss.ProductQuantizer,
        "OPQ": faiss.ProductQuantizer,
        "RQ": faiss.ResidualQuantizer,
        "LSQ": faiss.LocalSearchQuantizer,
    }[kind](wide.shape[1], n_bytes, 8)
    if kind != "LSQ":
        quantizer.cp.min_points_per_centroid = 1  # else it warns of small sets
    quantizer.train(wide)
    return turn, lambda x: distinct(quantizer.decode(quantizer.compute_codes(turn(x))))


def _signs(packed):
    return np.where(np.unpackbits(packed, axis=1, bitorder="little"), 1, -1).astype("f4")


# --- from tags: rivals ----------------------------------------------------------------------


def enhancer_of(split, **parameters):
    return TagEnhancer(split.word_vectors, **parameters)


def hashed(hasher_of):
    """A hasher of skwsdhq.baselines, at each number of bits."""

    def method(split, bits):
        for n_bits in bits:
            hasher = hasher_of(split, n_bits).fit(split.X, split.tags)
            yield n_bits, hasher.transform(split.queries), split.databases(hasher.transform)

    return method


def two_stage(embedder_of):
    """An embedder, then our codebooks for each number of bits."""

    def method(split, bits):
        embedder = embedder_of(split).fit(split.X, split.tags)
        queries = embedder.transform(split.queries)
        yield 0, queries, split.databases(embedder.transform)
        yield from coded(split, bits, queries, embedder.transform)

    return method


def coded(split, bits, queries, embed):
    """Our codes of what a function makes of features."""
    rows = embed(split.X)
    for n_bits in bits:
        quantizer = WSDHQuantizer(
            "passthrough", n_codebooks=n_bits // 8, random_state=split.seed
        ).fit(rows)
        yield n_bits, queries, split.databases(lambda X, q=quantizer: _index(q, embed(X)))


def _index(quantizer, embeddings):
    return CodeIndex(quantizer.codebooks_, quantizer.encode_embeddings(embeddings))


def unnormalized(embedder_of, supervised):
    """Codes of the tanh output itself, its length kept; in the metric of the tags, or Euclidean."""

    def method(split, bits):
        embedder = embedder_of(split).fit(split.X, split.tags)
        rows, queries = embedder.outputs(split.X), embedder.outputs(split.queries)
        vectors = np.asarray(embedder.tag_enhancer_.concept_vectors_, dtype=np.float64)
        # Σ has to be of full rank to encode in it.
        metric = vectors.T @ vectors if supervised else None
        if supervised:
            metric += 1e-3 * np.trace(metric) / len(metric) * np.eye(len(metric))
        yield 0, queries, rows
        for n_bits in bits:
            codebooks, codes = learn_codebooks(
                rows, n_bits // 8, 256, metric=metric, n_iter=20, random_state=split.seed
            )
            yield n_bits, queries, CodeIndex(codebooks, codes)

    return method


def classifier(split, bits, *, n_epochs=80, learning_rate=1e-3, n_dims=64):
    """A network that tells which concepts an image has; its probabilities, quantized.

    The square roots of the probabilities are compared (Hellinger), reduced by PCA.
    """
    enhancer = enhancer_of(split).fit(split.tags)
    indicator = enhancer.transform(split.tags)
    mean = split.X.mean(axis=0)
    inputs = prepare_inputs(split.X, mean).astype(np.float32)
    generator = torch.Generator().manual_seed(split.seed)
    network = build_network((inputs.shape[1], 1024, indicator.shape[1]), 0.5, generator)
    targets = torch.from_numpy(indicator.toarray())

    def loss(outputs, rows):
        # The sigmoid of twice what goes into the network's tanh.
        probabilities = ((outputs + 1) / 2).clamp(1e-6, 1 - 1e-6)
        return torch.nn.functional.binary_cross_entropy(probabilities, targets[rows])

    tagged, batch_size = np.flatnonzero(np.diff(indicator.indptr)), 256
    factor = AdamSchedule().factor(n_epochs, -(-len(tagged) // batch_size))
    lesson = Lesson(
        FixedInputs(network, inputs, generator.device),
        Steps(parameter_groups(network), learning_rate, factor=factor),
        loss,
        tagged,
        n_epochs,
        batch_size,
    )
    for epoch in range(n_epochs):
        run_epoch(lesson, epoch, generator)
    arrays = network_arrays(network)
    roots = np.sqrt(((forward(inputs, arrays) + 1) / 2).clip(0))
    pca = PCA(min(n_dims, *roots.shape), svd_solver="randomized", random_state=0).fit(roots)

    def embed(X):
        scaled = prepare_inputs(X, mean).astype(np.float32)
        roots = np.sqrt(((forward(scaled, arrays) + 1) / 2).clip(0))
        return normalize_rows(pca.transform(roots)).astype(np.float32)

    queries = embed(split.queries)
    yield 0, queries, split.databases(embed)
    yield from coded(split, bits, queries, embed)


# --- ours -----------------------------------------------------------------------------------


def joint(quantizer_of):
    def method(split, bits, given=None):
        for n_bits in bits:
            quantizer = quantizer_of(split) if given is None else given
            quantizer.set_params(n_codebooks=n_bits // 8)
            quantizer.fit(split.X, split.tags)
            queries = quantizer.transform(split.queries)
            if n_bits == max(bits):
                yield 0, queries, of_ours(split, quantizer.transform)

            def index(X, tags=None, quantizer=quantizer):
                return CodeIndex(quantizer.codebooks_, quantizer.encode(X, tags=tags))

            yield n_bits, queries, of_ours(split, index)

    return method


def of_ours(split, of):
    """What ours makes of the rows trained on, of later ones, and of these with their tags."""
    found = split.databases(of)
    return found if split.later is None else (*found, of(split.later, tags=split.later_tags))


def ours(split):
    """The defaults, or what the command line says instead."""
    parameters = dict(split.parameters)
    enhancer = enhancer_of(split)
    inner = [name for name in parameters if name.startswith(("embedder", "tag_enhancer__"))]
    if not inner:
        quantizer = WSDHQuantizer(tag_enhancer=enhancer, random_state=split.seed)
        return quantizer.set_params(**parameters)
    parameters = {
        f"embedder__{name}" if name.startswith("tag_enhancer__") else name: value
        for name, value in parameters.items()
    }
    embedder = HypersphereEmbedder(enhancer, random_state=split.seed)
    own = {name: parameters.pop(name) for name in list(parameters) if name.startswith("embedder__")}
    quantizer = WSDHQuantizer(embedder, random_state=split.seed).set_params(**parameters)
    set_embedder(quantizer.embedder, {k.removeprefix("embedder__"): v for k, v in own.items()})
    return quantizer


def set_embedder(embedder, parameters):
    """Set parameters; those of a part that stands for a default one, as loss__temperature, too."""
    whole = {name: value for name, value in parameters.items() if "__" not in name}
    embedder.set_params(**whole)  # first: loss=contrastive before loss__temperature=0.2
    for name in {name.partition("__")[0] for name in parameters} & set(PARTS):
        part = getattr(embedder, name)
        if not hasattr(part, "get_params"):
            embedder.set_params(**{name: PARTS[name](part)})
    nested = {name: value for name, value in parameters.items() if "__" in name}
    return embedder.set_params(**nested)


# The object that a parameter's name, flag or None stands for.
PARTS = {
    "loss": loss_of,
    "kernel": lambda _: TagKernelRegressor(),
    "scaler": lambda _: FeatureScaler(),
    "optimizer": lambda _: AdamSchedule(),
    "finetune": lambda layers: FineTuning() if layers is None else FineTuning(layers),
    "early_stopping": lambda _: EarlyStopping(),
}


def kernel_alone(split):
    """The default without its network."""
    return WSDHQuantizer(embedder(kernel_weight=1.0)(split), random_state=split.seed)


def ours_two_stage(split, bits):
    """Parameters of the embedder, as "embedder__…", and of the quantizer hold here as well."""
    quantizer = ours(split)
    embedder = quantizer.embedder
    if embedder is None:
        embedder = HypersphereEmbedder(quantizer.tag_enhancer, random_state=split.seed)
    embedder = embedder.fit(split.X, split.tags)
    rows, queries = embedder.transform(split.X), embedder.transform(split.queries)
    yield 0, queries, split.databases(embedder.transform)
    quantizer.set_params(embedder="passthrough", tag_enhancer=None)
    for n_bits in bits:
        quantizer.set_params(n_codebooks=n_bits // 8).fit(rows)
        yield (
            n_bits,
            queries,
            split.databases(lambda X: _index(quantizer, embedder.transform(X))),
        )


def from_paper(split):
    """The paper's method, a hidden layer standing for those of a network that would learn."""
    return WSDHQuantizer.from_paper(
        split.word_vectors,
        finetune=None,
        random_state=split.seed,
        embedder__random_state=split.seed,
    )


def embedder(enhancing=None, **parameters):
    """The default embedder but for these parameters."""

    def make(split):
        enhancer = enhancer_of(split, **(enhancing or {}))
        return HypersphereEmbedder(enhancer, random_state=split.seed, **parameters)

    return make


# Chosen on validation rows for the rivals' losses: .001 better than the defaults.
SCHEDULE = {"max_iter": 25, "learning_rate": 6e-4}


def network(**parameters):
    """A network alone, as rivals have it."""
    return embedder(kernel_weight=0.0, **SCHEDULE, **parameters)


def dvsq(split):
    """Given tag vectors as they are: no graph, no centring, no joined vectors."""
    enhancer = enhancer_of(split, tau=1.0, eps=0.0, cooccurrence_weight=0, remove_components=None)
    return HypersphereEmbedder(
        enhancer,
        kernel_weight=0.0,
        random_state=split.seed,
        **SCHEDULE,
    )


METHODS = {
    "ours": joint(ours),
    "ours two-stage": ours_two_stage,
    "paper": joint(from_paper),
    # Ablations of "ours two-stage": four times as fast as those of the joint training.
    "network alone": two_stage(embedder(kernel_weight=0.0)),
    "kernel alone": joint(kernel_alone),
    "all tags trusted alike": two_stage(embedder(kernel=TagKernelRegressor(consistency=0.0))),
    "no graph": two_stage(embedder({"tau": 1.0, "eps": 0.0})),
    "no co-occurrence": two_stage(embedder({"cooccurrence_weight": 0})),
    "tag vectors not centred": two_stage(embedder({"remove_components": None})),
    "features as they are": two_stage(embedder(scaler=FeatureScaler(power=1.0))),
    "no normalisation": unnormalized(embedder(kernel_weight=0.0), supervised=False),
    "WDHT binary": hashed(
        lambda split, n_bits: WDHTHasher(enhancer_of(split), n_bits=n_bits, random_state=split.seed)
    ),
    # Two margins: on validation rows each is the better one on half of the sets of labels.
    "WDHT loss .7, our codes": two_stage(network(loss=MeanTagHinge(0.7))),
    "WDHT loss 1.5, our codes": two_stage(network(loss=MeanTagHinge(1.5))),
    "contrastive": two_stage(network(loss=Contrastive(1.0))),
    "DVSQ-style": unnormalized(dvsq, supervised=True),
    "CCA-ITQ": hashed(
        lambda split, n_bits: CCAITQ(enhancer_of(split), n_bits=n_bits, random_state=split.seed)
    ),
    "tag classifier": classifier,
    "features": features,
    "features, PCA": features_pca,
    **{kind: unsupervised(kind) for kind in ("LSH", "ITQ", "PQ", "OPQ", "RQ", "LSQ")},
}
