"""WSDHQuantizer: images to codes of a few bytes, and search over them."""

import os
import weakref
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED

from .. import codebooks, metrics, search
from ..codebooks.inputs import code_dtype
from ..embedding import HypersphereEmbedder
from ..images import input_kind
from ..persistence import PersistenceMixin
from ..persistence.registry import as_text, saved
from ..search.checks import check_k
from ..search.expansion import expand_queries
from ..tags.concepts import read_concepts
from ..tags.enhancer import TagEnhancer
from ..training.checkpoint import fingerprint
from ..training.network import BLOCK
from ..training.session import fit_by
from ..utils._compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    num_samples,
    with_callbacks,
)
from ..utils.estimators import fitted_now, takes_tags, validate_later
from ..utils.rows import is_lazy
from ..utils.validation import check_whole
from ._codes import final_codes
from ._encode_to import Rows, write_codes
from ._paper import paper_parameters
from ._queries import Decoded, query_rows, suggested
from ._saved import REQUIRED, check_quantizer, from_format_1
from ._training import (
    IMAGES_PASS_NOT_THROUGH,
    KINDS,
    QuantizerTraining,
    embeddings_by,
    inner_of,
    offers_training,
    scaled,
)

__all__ = ["WSDHQuantizer"]

# Codebooks and codes of quantizers, and the index over them, which nobody changes. No attribute,
# which would be saved, copied and compared.
_FITTED: weakref.WeakKeyDictionary[Any, tuple] = weakref.WeakKeyDictionary()
_BLOCK = 4 * BLOCK  # rows that are embedded and encoded at once


@saved(
    required=REQUIRED,
    check=check_quantizer,
    local=("checkpoint_dir",),
    names={"device": as_text},
    upgrade={1: from_format_1},
)
class WSDHQuantizer(
    PersistenceMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Learn codes of 1 to 8 bytes an image from images with messy tags.

    An embedding and M codebooks of K codewords are learned together: the network by the loss of
    its embedding and by how well the codes stand for it, the codes and codewords in turns. The
    code of an image names one codeword of each codebook, whose sum stands for its embedding.

    Parameters
    ----------
    embedder : HypersphereEmbedder, FrozenEstimator, "passthrough" or None, default=None
        What embeds; cloned in ``fit``. None is a ``HypersphereEmbedder()`` with this
        quantizer's ``tag_enhancer``, ``device``, ``random_state`` and ``verbose``. A fitted one
        in a :class:`~sklearn.frozen.FrozenEstimator` is used as it is, and only codebooks are
        learned. ``"passthrough"`` says that X already is embeddings, as after a
        ``HypersphereEmbedder`` step of a Pipeline; rows are scaled to unit length.
    n_codebooks : int or None, default=None
        M. None is 4, or what ``n_bits`` and ``n_codewords`` leave.
    n_codewords : int or None, default=None
        K; a code takes M·⌈log2 K⌉ bits. None is 256, or what ``n_bits`` and ``n_codebooks`` leave.
    n_bits : int or None, default=None
        Another way to say both: codebooks of 256 codewords that make as many bits, or of fewer
        where the bits want it or there are fewer images than that. Beside ``n_codebooks`` or
        ``n_codewords`` it says the other one; what contradicts it is an error.
    quantization_weight : float, default=1e-4
        lambda, weight of the quantization loss.
    code_update_period : int, default=2
        Epochs between updates of codes and codewords while the network learns.
    icm_iters : int, default=3
        Sweeps of iterated conditional modes over the codebooks.
    beam_size : int or None, default=4
        Partial codes that encoding keeps from codebook to codebook; None starts ICM from the
        greedy choice (in training, from the codes as they are).
    prefix_weight : float, default=0.1
        Weight of the errors of the first 1, 2, ... codewords of a code, beside that of all: with
        it these are coarser codes by themselves, nearly as good as codes learned at that length,
        at no loss of the whole one (see :meth:`skwsdhq.search.CodeIndex.search`). 0 learns whole
        codes only.
    metric_mix : float, default=0.0
        In which metric codes and codewords are near: 1 is that of the tags, VᵀV (the paper's), 0
        is Euclidean, between is a mix.
    normalize : bool, default=True
        Whether embeddings are scaled to unit length, as the paper has it. False leaves them, in
        the quantization loss, the codes and ``transform``, as the last layer's tanh gives them,
        and concept vectors in the metric as long as their tags' vectors: what the published code
        does.
    init : {"residual", "subspace"}, default="residual"
        First codebooks: k-means of what the codebooks before leave over, or of a slice of the
        dimensions for each codebook (as the published code does).
    ridge : float, default=0.03
        Added to the diagonal of the codewords' normal equations, where a row counts 1. With few
        rows for each codeword (the published 1e-3 is for many) less of it lets codewords of
        several codebooks grow against each other, and no search finds the codes they were made for.
    codebook_iters : int, default=20
        Turns of codes and codewords after the network has been trained, beginning anew (see
        :func:`skwsdhq.codebooks.learn_codebooks`); 0 leaves those that followed the training.
    tag_enhancer : TagEnhancer or None, default=None
        With ``embedder=None``, the embedder's. With ``embedder="passthrough"``, gives the metric
        where its vectors have X's dimension; None is Euclidean, and y may be None.
    top_k : int, default=5000
        R of the mAP@R that ``score`` returns.
    checkpoint_dir : str, PathLike or None, default=None
        Of the default embedder: folder in which ``fit`` keeps its state, codes included, after
        each epoch, to go on from when it was killed. Needs a ``random_state``.
    device : str, torch.device or None, default=None
        Of the default embedder.
    random_state : int, RandomState instance or None, default=None
    warm_start : bool, default=False
        Whether ``fit`` goes on from the embedder and codebooks of the last one.
    verbose : int, default=0
        1 shows progress of the default embedder.

    Attributes
    ----------
    codebooks_ : ndarray of shape (M, K, D), float32
    codes_ : ndarray of shape (n, M), uint8 (uint16 where K > 256)
        Of the fitted rows; after ``partial_fit`` of those of all calls, in the order in which they
        came.
    embedder_ : HypersphereEmbedder or "passthrough"
        Fitted.
    tag_enhancer_ : TagEnhancer or None
        Fitted; the embedder's where there is one.
    length_weight_ : float
        How much it counts in codes that what they stand for is as long as the embedding, see
        :func:`skwsdhq.codebooks.encode`: with least error alone, images that came after the fit
        would be found after those of the fit. 2 where embeddings are of unit length and errors
        Euclidean, else 0.
    prefix_weight_ : float
        By which the codebooks were learned, and codes are chosen.
    n_bits_ : int
        Bits of a code, M·⌈log2 K⌉.
    tag_calibration_ : dict or None
        By which ``suggest_tags`` tells probabilities: ``"concepts"`` that the rows of ``codes_``
        carry, those of row i from ``"starts"[i]`` to ``"starts"[i + 1]``; ``"slope"``,
        ``"share_slope"``, ``"count_slope"`` and ``"intercept"`` of the logit. None without concepts
        that embeddings can be compared with.
    tag_directions_ : ndarray of shape (C, D), float32, or None
        Where words are looked for: unit rows, between a concept's own vector and where the kernel
        regression places images that carry it, each without its own tags. None without that
        regression, or where it has more rows than ``max_landmarks``: words are looked for where
        their concepts are.
    n_iter_ : int
        Epochs of the network, or turns of the codebooks where no network was trained.
    history_ : dict of str to list of float
        ``"loss"``, ``"quantization_loss"``, ``"learning_rate"`` of each epoch.
    n_features_in_ : int
        Where X is a feature matrix.

    References
    ----------
    Wang et al., "Weakly Supervised Deep Hyperspherical Quantization for Image Retrieval", AAAI
    2021.

    Examples
    --------
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(200, random_state=0)
    >>> quantizer = WSDHQuantizer(n_bits=8, n_codewords=16, random_state=0)
    >>> codes = quantizer.fit(made.data, made.tags).encode(made.data)
    >>> codes.shape, codes.dtype, quantizer.n_bits_
    ((200, 2), dtype('uint8'), 8)
    >>> quantizer.score(made.data, made.clean_tags) > 0.9
    True
    """

    _parameter_constraints: dict = {
        "embedder": [HasMethods(["fit", "transform"]), StrOptions({"passthrough"}), None],
        "n_codebooks": [Interval(Integral, 1, None, closed="left"), None],
        "n_codewords": [Interval(Integral, 2, 65536, closed="both"), None],
        "n_bits": [Interval(Integral, 1, None, closed="left"), None],
        "quantization_weight": [Interval(Real, 0, None, closed="left")],
        "code_update_period": [Interval(Integral, 1, None, closed="left")],
        "icm_iters": [Interval(Integral, 0, None, closed="left")],
        "beam_size": [Interval(Integral, 1, None, closed="left"), None],
        "prefix_weight": [Interval(Real, 0, np.float64(1e6), closed="both")],
        "metric_mix": [Interval(Real, 0, 1, closed="both")],
        "normalize": ["boolean"],
        "init": [StrOptions({"residual", "subspace"})],
        "ridge": [Interval(Real, 0, None, closed="neither")],
        "codebook_iters": [Interval(Integral, 0, None, closed="left")],
        "tag_enhancer": [HasMethods(["fit", "transform"]), None],
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "device": "no_validation",
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    # Counts and sums of the batches so far, from which partial_fit goes on.
    _statistics: tuple[np.ndarray, np.ndarray] | None

    # Clean labels reach score through Pipeline and GridSearchCV where routing is on.
    __metadata_request__score = {"labels": True, "n_expansion": UNUSED}
    __metadata_request__transform = {"tags": True}

    def __init__(  # noqa: PLR0913 - the parameters of the estimator
        self,
        embedder: Any = None,
        *,
        n_codebooks: int | None = None,
        n_codewords: int | None = None,
        n_bits: int | None = None,
        quantization_weight: float = 1e-4,
        code_update_period: int = 2,
        icm_iters: int = 3,
        beam_size: int | None = 4,
        prefix_weight: float = 0.1,
        metric_mix: float = 0.0,
        normalize: bool = True,
        init: str = "residual",
        ridge: float = 0.03,
        codebook_iters: int = 20,
        tag_enhancer: Any = None,
        top_k: int = 5000,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.embedder = embedder
        self.n_codebooks = n_codebooks
        self.n_codewords = n_codewords
        self.n_bits = n_bits
        self.quantization_weight = quantization_weight
        self.code_update_period = code_update_period
        self.icm_iters = icm_iters
        self.beam_size = beam_size
        self.prefix_weight = prefix_weight
        self.metric_mix = metric_mix
        self.normalize = normalize
        self.init = init
        self.ridge = ridge
        self.codebook_iters = codebook_iters
        self.tag_enhancer = tag_enhancer
        self.top_k = top_k
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    @classmethod
    def from_paper(
        cls,
        word_vectors: Any = None,
        *,
        n_bits: int = 32,
        mode: str = "paper",
        finetune: str | None = "all",
        **parameters: Any,
    ) -> Self:
        """Return the method as it was published, where the defaults have gone on from it.

        Word vectors as they are (neither centred nor joined with co-occurrence); one layer with
        tanh on top of AlexNet, all of which learns, at a rate of 3e-4 that is halved every 300
        batches of 256; the adaptive margin with gamma 1; K = 256, lambda = 1e-4; codes in the
        metric of the tags by three sweeps of ICM; test embeddings the mean over ten crops.

        Parameters
        ----------
        word_vectors : mapping, KeyedVectors, str, PathLike or None, default=None
            See :class:`TagEnhancer`; the published runs use word2vec's of Google News.
        n_bits : int, default=32
            A multiple of 8.
        mode : {"paper", "code"}, default="paper"
            ``"code"`` follows the published code where it is not what the paper says: embeddings
            are quantized before they are normalised; one rate for all layers, since a factor on a
            gradient, as the code has it, does nothing under Adam; first codebooks from slices of
            the dimensions, and no turns of codes and codewords after the last epoch. With
            ``"paper"`` the last layer has ten times the rate of those below, its bias twenty
            times, as was meant.
        finetune : {"all", "last", None}, default="all"
            With None, which takes features too, a hidden layer stands in for those of the
            network that would learn, with this library's scaling of features and steps of the rate.
        **parameters
            Any parameters of the quantizer, of the embedder as ``embedder__...``, of the
            enhancer as ``embedder__tag_enhancer__...``. The thresholds of the enhancer were not
            published: they are this library's. ``checkpoint_dir``, ``device`` and ``verbose`` hold
            for the embedder as well.

        Returns
        -------
        WSDHQuantizer
            Not fitted.

        Examples
        --------
        >>> from skwsdhq import WSDHQuantizer
        >>> quantizer = WSDHQuantizer.from_paper(n_bits=16, random_state=0)
        >>> quantizer.n_codebooks, quantizer.metric_mix, quantizer.embedder.backbone
        (2, 1.0, 'alexnet')
        """
        own, embedding, enhancing = paper_parameters(n_bits, mode, finetune)
        # They mean nothing for a quantizer whose embedder is given, as it is here.
        for name in ("checkpoint_dir", "device", "verbose"):
            if name in parameters:
                embedding[name] = parameters[name]
        enhancer = TagEnhancer(word_vectors, **enhancing)
        quantizer = cls(HypersphereEmbedder(enhancer, **embedding), **own)
        return quantizer.set_params(**parameters)

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the embedding and the codebooks.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for :meth:`HypersphereEmbedder.fit`; embeddings with ``"passthrough"``.
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Needed unless X is embeddings
            and no metric is learned from tags.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ValueError
            If there are fewer rows than codewords, if ``n_bits`` and the other two contradict each
            other, and as for :meth:`HypersphereEmbedder.fit`.
        FloatingPointError
            As for :meth:`HypersphereEmbedder.fit`; the codes are those of the last good epoch.
        """
        self._validate_params()
        # To count epochs before the training begins, for callbacks.
        inner = HypersphereEmbedder() if self.embedder is None else self.embedder
        resume = "fit" if self.warm_start else None

        def start(twin: Any) -> QuantizerTraining:
            return QuantizerTraining(twin, X, y, resume=resume)

        # None: nobody knows how many.
        n_epochs = getattr(inner, "max_epochs", None) if offers_training(inner) else 0
        return fit_by(start, self, X, y, n_epochs)

    @with_callbacks
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train the network one more epoch, and the codebooks one turn, over these images only.

        ``codes_``, and so ``kneighbors`` and ``index``, go on to all images of ``fit`` and of every
        call since: those of earlier calls keep their row numbers, those of this one come behind
        them. Images that are given again are rows again; for several rounds over the same images,
        index what ``encode`` makes of them in the end.

        Codes of earlier rows stay as they are, M bytes a row being all that is kept of each. The
        codewords that they name move: they fit the sums of all batches, those of earlier batches
        moved as this one's embeddings are by its epoch. So an earlier row is placed where such
        images are now, as far as a linear map of all of them tells; codes by a last ``encode``, or
        by a new ``fit``, are more accurate.

        Parameters
        ----------
        X : images or features
            As for ``fit``.
        y : tags of n rows
            As for ``fit``.

        Returns
        -------
        self
            Fitted.
        """
        self._validate_params()

        def start(twin: Any) -> QuantizerTraining:
            return QuantizerTraining(twin, X, y, resume="partial")

        return fit_by(start, self, X, y, 1)

    def transform(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Embed images, before quantization.

        Parameters
        ----------
        X : images or features, as for ``fit``
        tags : tags of n rows, default=None
            Own tags of images that came after the fit, see :meth:`HypersphereEmbedder.transform`.

        Returns
        -------
        ndarray of shape (n, D)
            Unit rows (with ``normalize=False`` of any length); float64 where X is float64
            features, else float32.
        """
        now = fitted_now(self)
        return now._embed(X, tags)

    def encode(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Code images.

        Parameters
        ----------
        X : images or features, as for ``fit``
        tags : tags of n rows, default=None
            As for :meth:`transform`: codes of later images are better with them.

        Returns
        -------
        ndarray of shape (n, M), uint8 (uint16 where K > 256)
            A code names a codeword of each codebook.
        """
        now = fitted_now(self)
        # Codes are small: embeddings of all rows need not be there at once.
        blocks = now._embedding_blocks(X, tags)
        return np.concatenate([now.encode_embeddings(rows) for rows in blocks])

    def encode_to(self, X: Any, path: str | os.PathLike[str], *, tags: Any = None) -> np.memmap:
        """Code images into a ``.npy`` file, block by block; go on where a call was stopped.

        Neither X nor the codes are held in memory: X may be a memory map, or any object with
        ``shape`` and ``dtype`` that slices. The file has its name once all codes are in it; until
        then it is ``path`` with ``.part`` behind it, beside a ``.progress`` that is written every
        other second. The same call again goes on from there, after it has read the rows that are
        done: with another model or other rows it raises an error. One process at a time.

        Parameters
        ----------
        X : images or features, as for ``fit``
        path : str or PathLike
            Ends in ``.npy``. A file that is there is replaced in the end.
        tags : tags of n rows, default=None
            As for :meth:`transform`.

        Returns
        -------
        memmap of shape (n, M)
            What ``encode`` returns, as it lies in the file. With ``verbose`` a bar tells how many
            rows a second it takes.

        Examples
        --------
        >>> import os, tempfile
        >>> from skwsdhq import WSDHQuantizer
        >>> from skwsdhq.datasets import make_tagged_images
        >>> made = make_tagged_images(200, random_state=0)
        >>> quantizer = WSDHQuantizer(n_codebooks=2, n_codewords=16, random_state=0)
        >>> quantizer = quantizer.fit(made.data, made.tags)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     codes = quantizer.encode_to(made.data, os.path.join(folder, "codes.npy"))
        ...     bool((codes == quantizer.encode(made.data)).all())
        True
        """
        now = fitted_now(self)
        now._check_tags_fit(tags)
        rows = now._check_features(X)
        own = None if tags is None else read_concepts(X, tags, inner_of(now.tag_enhancer_))

        def encode(block: Any, concepts: Any) -> np.ndarray:
            words = None
            if concepts is not None:
                words = inner_of(now.tag_enhancer_).inverse_transform(concepts)
            return now.encode(block, tags=words)

        options = now._encode_options
        step = _BLOCK if input_kind(X) == "features" else BLOCK
        return write_codes(
            path,
            # A frame keeps its names of columns; a memory map is checked block by block.
            Rows(rows if is_lazy(X) else X, own, num_samples(rows), step),
            encode,
            fingerprint(now.codebooks_, now.metric_, options, bool(now.normalize)),
            shape=(len(now.codebooks_), code_dtype(now.codebooks_.shape[1])),
            verbose=int(self.verbose),
        )

    def encode_embeddings(self, Z: Any) -> np.ndarray:
        """Code embeddings, as ``transform`` gives them.

        Parameters
        ----------
        Z : ndarray of shape (n, D)
            Embeddings.

        Returns
        -------
        ndarray of shape (n, M), uint8 (uint16 where K > 256)
            Codes; the code of a row depends on nothing else.
        """
        now = fitted_now(self)
        return final_codes(Z, now.codebooks_, now.metric_, now._encode_options)

    def decode(self, codes: Any) -> np.ndarray:
        """Return what codes stand for.

        Parameters
        ----------
        codes : array-like of shape (n, M), integers

        Returns
        -------
        ndarray of shape (n, D), float32
            Sum of the codewords; near unit length.
        """
        return codebooks.decode(codes, fitted_now(self).codebooks_)

    def kneighbors(
        self, X: Any, n_neighbors: int = 10, *, tags: Any = None, n_expansion: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the fitted rows most similar to images, by their codes.

        Parameters
        ----------
        X : images or features, as for ``fit``
            Queries; their exact embeddings are compared with the rows' codes.
        n_neighbors : int, default=10
            From 1 to the number of fitted rows; checked before X is looked at.
        tags : tags of q rows, default=None
            Of the queries, as for :meth:`transform`.
        n_expansion : int, default=0
            Each query is joined by the mean of what the codes of its first so many results stand
            for, and searched for again. 2 finds more of most pictures, see the user guide.

        Returns
        -------
        similarities : ndarray of shape (q, n_neighbors), float32
            Inner products, the largest first; with the joined query where there is one.
        indices : ndarray of shape (q, n_neighbors)
            Rows of ``codes_``; of equal similarities the smaller first.
        """
        now = fitted_now(self)
        # By the arrays of one moment, where another thread fits meanwhile.
        index = self._fitted_index(now.codebooks_, now.codes_)
        n_neighbors = _check_neighbors(n_neighbors, index)
        check_whole("n_expansion", n_expansion, 0)
        queries = expand_queries(now._embed(X, tags), index, n_expansion)
        return index.search(queries, n_neighbors)

    def embed_query(self, X: Any = None, tags: Any = None, weight: float = 0.5) -> np.ndarray:
        """Embed what is looked for: pictures, words, or both at once.

        Parameters
        ----------
        X : images or features of q queries, default=None
            As for ``fit``.
        tags : words of q queries, default=None
            As for :meth:`TagEnhancer.embed`; tags of the fit are looked for in the directions of
            ``tag_directions_``. One query of words beside several pictures, or one
            picture beside several, goes with each of them.
        weight : float, default=0.5
            Of the words where there are both, from 0 (the picture alone) to 1.

        Returns
        -------
        ndarray of shape (q, D), float32
            Unit rows, for :meth:`search.CodeIndex.search`.
        """
        now = fitted_now(self)
        return query_rows(now, self, X, tags, weight)

    def kneighbors_of_tags(
        self,
        tags: Any,
        n_neighbors: int = 10,
        *,
        X: Any = None,
        weight: float = 0.5,
        n_expansion: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the fitted rows that words fit best, by their codes.

        Parameters
        ----------
        tags : words of q queries
            As for :meth:`TagEnhancer.embed`.
        n_neighbors : int, default=10
            From 1 to the number of fitted rows.
        X : images or features of q queries, default=None
            To be looked for together with the words.
        weight : float, default=0.5
            Of the words, see :meth:`embed_query`.
        n_expansion : int, default=0
            As for :meth:`kneighbors`. Words alone find more with it where tags are noisy, and less
            where they are clean.

        Returns
        -------
        similarities, indices : ndarray of shape (q, n_neighbors)
            As :meth:`kneighbors` gives them.

        Examples
        --------
        >>> from skwsdhq import WSDHQuantizer
        >>> from skwsdhq.datasets import make_tagged_images
        >>> made = make_tagged_images(200, random_state=0)
        >>> quantizer = WSDHQuantizer(n_codebooks=2, n_codewords=16, random_state=0)
        >>> quantizer.fit(made.data, made.tags).kneighbors_of_tags(["c0_t0"], 3)[1].shape
        (1, 3)
        """
        now = fitted_now(self)
        index = self._fitted_index(now.codebooks_, now.codes_)
        n_neighbors = _check_neighbors(n_neighbors, index)
        check_whole("n_expansion", n_expansion, 0)
        queries = expand_queries(query_rows(now, self, X, tags, weight), index, n_expansion)
        return index.search(queries, n_neighbors)

    def suggest_tags(
        self, X: Any, n_tags: int = 5, *, tags: Any = None, prior_weight: float = 0.15
    ) -> tuple[np.ndarray, np.ndarray]:
        """Suggest tags for images, with how likely a person is to agree.

        Parameters
        ----------
        X : images or features, as for ``fit``
        n_tags : int, default=5
            Of each image.
        tags : tags of n rows, default=None
            Own tags, which place the images better (see :meth:`transform`) and are not suggested.
        prior_weight : float, default=0.15
            From 0 to 1: how far frequent tags go before rare ones. At 1 those are suggested that
            are most likely, which often are the same few.

        Returns
        -------
        names : ndarray of shape (n, t), object
            The most likely first; t is ``n_tags``, or the number of concepts. None where an
            image has all others.
        scores : ndarray of shape (n, t), float32
            Probabilities, as rows that the fit left out have shown them.

        Raises
        ------
        ValueError
            If there are no concepts that embeddings can be compared with.
        """
        now = fitted_now(self)
        return suggested(now, self, X, n_tags, prior_weight, tags)

    def suggest_tags_of_codes(
        self, codes: Any, n_tags: int = 5, *, prior_weight: float = 0.15
    ) -> tuple[np.ndarray, np.ndarray]:
        """Suggest tags for what codes stand for.

        Parameters
        ----------
        codes : array-like of shape (n, M), integers
        n_tags : int, default=5
            Of each row.
        prior_weight : float, default=0.15
            As for :meth:`suggest_tags`.

        Returns
        -------
        names, scores : ndarray of shape (n, t)
            As :meth:`suggest_tags` gives them.
        """
        now = fitted_now(self)
        rows = now.decode(codes).view(Decoded)
        return suggested(now, self, rows, n_tags, prior_weight, None)

    def index(self, ids: Any = None) -> search.CodeIndex:
        """Return an index over the codes of the fitted rows.

        It is made once and kept, together with what searches are prepared by, until ``codebooks_``
        or ``codes_`` are other arrays. What is added to the index that is returned, or removed from
        it, changes neither this estimator nor the next index.

        Parameters
        ----------
        ids : array-like of shape (n,), default=None
            Distinct integers or strings, one for each fitted row; None numbers them.

        Returns
        -------
        CodeIndex
            Of its own.
        """
        now = fitted_now(self)
        # A copy: what the user adds or removes is not seen by kneighbors.
        return self._fitted_index(now.codebooks_, now.codes_).copy(ids)

    def score(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        labels: Any = None,
        n_expansion: int = 0,
    ) -> float:
        """Return mAP@``top_k`` with each row a query against all other rows' codes.

        Parameters
        ----------
        X : images or features, as for ``fit``
            Both the queries (exact embeddings) and the database (codes).
        y : tags of n rows
            Rows that share at least one tag are relevant to each other. Tags count as they are,
            not as the concepts they were merged to: else merging would raise the score by itself.
        sample_weight : array-like of shape (n,), default=None
            Weights of the queries.
        labels : array-like of shape (n,) or (n, L), or lists of labels, default=None
            What to judge by instead of y.
        n_expansion : int, default=0
            As for :meth:`kneighbors`; a query is not joined by its own row.

        Returns
        -------
        float
            From 0 to 1. Queries with nothing relevant among the other rows are left out.
        """
        now = fitted_now(self)
        # Labels judge where there are any: tags are what was learned from.
        judged = y if labels is None else labels
        if judged is None:
            raise ValueError("score needs tags (y) or labels to judge by; both are None.")
        embeddings = now._embed(X)
        # Rows are embedded once, as queries and as the database.
        index = search.CodeIndex(now.codebooks_, now.encode_embeddings(embeddings))
        return metrics.mean_average_precision(
            expand_queries(embeddings, index, n_expansion, exclude_self=True),
            index,
            judged,
            judged,
            top_k=now.top_k,
            exclude_self=True,
            sample_weight=sample_weight,
        )

    def get_metadata_routing(self) -> Any:
        """Return what scikit-learn's routing passes on: embeddings have taken tags along already.

        Returns
        -------
        MetadataRequest
            What each method asks for.
        """
        requests = super().get_metadata_routing()
        if isinstance(self.embedder, str):
            requests.transform.add_request(param="tags", alias=False)
        return requests

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = not (
            isinstance(self.embedder, str) and self.tag_enhancer is None
        )
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.codebooks_.shape[2]

    # --- helpers ------------------------------------------------------------------------

    def _embed(self, X: Any, tags: Any = None) -> np.ndarray:
        """Embed images as :meth:`transform` does, in no other container than an array."""
        self._check_tags_fit(tags)
        rows = self._check_features(X)
        if isinstance(self.embedder_, str):  # "passthrough"
            return np.asarray(scaled(rows, self.normalize))
        return embeddings_by(self.embedder_, X, self.normalize, tags)

    def _check_tags_fit(self, tags: Any) -> None:
        """Check that the embedder takes tags of later images, where there are any."""
        # The frozen one is asked itself.
        inner = inner_of(self.embedder_)
        if tags is not None and not takes_tags(inner):
            name = repr(inner) if isinstance(inner, str) else type(inner).__name__
            raise ValueError(
                "tags of later images are placed by a HypersphereEmbedder or TagKernelRegressor, "
                f"but embedder_ is {name}; give them to the step that embeds, or leave them out."
            )

    def _fitted_index(self, words: np.ndarray, codes: np.ndarray) -> search.CodeIndex:
        """Return the index that is kept of these arrays, which this estimator holds or held."""
        # Set and read in one step each: threads that come at once make equal ones.
        known_words, known_codes, index = _FITTED.get(self, (None, None, None))
        if known_words is not words or known_codes is not codes:
            index = search.CodeIndex(words, codes)
            _FITTED[self] = words, codes, index
        return index

    def _check_features(self, X: Any) -> Any:
        """Check features as scikit-learn does, in this estimator's name; images are not."""
        if input_kind(X) == "features":
            return validate_later(self, X, KINDS)
        if isinstance(self.embedder_, str):
            raise ValueError(IMAGES_PASS_NOT_THROUGH)
        return X

    def _embedding_blocks(self, X: Any, tags: Any = None) -> Iterator[np.ndarray]:
        """Embed images as :meth:`transform` does, some rows at a time where X is a matrix."""
        self._check_tags_fit(tags)
        embedder = self.embedder_
        rows = self._check_features(X)
        if isinstance(embedder, str):
            for start in range(0, len(rows), _BLOCK):
                yield scaled(rows[start : start + _BLOCK], self.normalize)
        elif input_kind(X) == "features" and hasattr(embedder, "iter_outputs"):
            for block in embedder.iter_outputs(X, tags=tags):
                yield scaled(block, self.normalize)
        else:
            # Images come in batches already, and other transformers at once.
            yield embeddings_by(embedder, X, self.normalize, tags)

    @property
    def _encode_options(self) -> dict[str, Any]:
        return {
            "n_sweeps": self.icm_iters,
            "beam_size": self.beam_size,
            "prefix_weight": self.prefix_weight_,
            "length_weight": self.length_weight_,
        }


def _check_neighbors(n_neighbors: Any, index: search.CodeIndex) -> int:
    """Return a number of neighbours that an index has."""
    n_neighbors = check_k(n_neighbors, "n_neighbors")
    if n_neighbors > len(index):
        raise ValueError(f"n_neighbors={n_neighbors} should be <= the {len(index)} fitted rows.")
    return n_neighbors
