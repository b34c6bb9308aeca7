"""Synthetic tagged images and features, whose noise is known."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..utils._compat import Interval, StrOptions, validate_parameter_constraints

__all__ = ["make_tagged_images"]

_COUNT = [Interval(Integral, 1, None, closed="left")]
_PROBABILITY = [Interval(Real, 0, 1, closed="both")]
_CONSTRAINTS = {
    "n_samples": _COUNT,
    "n_classes": _COUNT,
    "n_tags_per_class": _COUNT,
    "tags_per_image": _COUNT,
    "missing": _PROBABILITY,
    "wrong": _PROBABILITY,
    "kind": [StrOptions({"features", "images"})],
    "n_features": _COUNT,
    "spread": [Interval(Real, 0, None, closed="left")],
    "image_size": _COUNT,
    "random_state": ["random_state"],
}


def make_tagged_images(  # noqa: PLR0913 - options of a call, all but one by name
    n_samples: int = 200,
    *,
    n_classes: int = 5,
    n_tags_per_class: int = 4,
    tags_per_image: int = 3,
    missing: float = 0.0,
    wrong: float = 0.0,
    kind: str = "features",
    n_features: int = 32,
    spread: float = 0.3,
    image_size: int = 24,
    random_state: Any = None,
) -> Any:
    """Make images, or features of images, with tags whose noise is known.

    Each class is a topic with words of its own; an image of the class carries some of them.
    Then tags are lost (``missing``) and replaced by words of other topics (``wrong``). Word
    vectors come along in which the words of a topic are near each other.

    Parameters
    ----------
    n_samples : int, default=200
        Images.
    n_classes : int, default=5
        Topics, over which images are spread evenly.
    n_tags_per_class : int, default=4
        Words of each topic. Tags are named ``"c<class>_t<number>"``.
    tags_per_image : int, default=3
        Words of an image before noise; at most ``n_tags_per_class``.
    missing : float, default=0.0
        Probability that a tag is lost.
    wrong : float, default=0.0
        Probability that a tag is replaced by a word of another topic.
    kind : {"features", "images"}, default="features"
        Features (n_samples, n_features), a Gaussian around each class; or pictures
        (n_samples, image_size, image_size, 3) of uint8, stripes in the colour, direction and
        frequency of the class, with pixel noise.
    n_features : int, default=32
        Columns of the features.
    spread : float, default=0.3
        Standard deviation of features around their class, whose centres are of unit variance.
        For images, the standard deviation of pixel noise is ``100 * spread``.
    image_size : int, default=24
        Pixels of a picture's side.
    random_state : int, RandomState instance or None, default=None
        Draws all of it; an int gives the same each time.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With ``data`` (features or pictures), ``tags`` (list of lists), ``clean_tags`` (before
        noise), ``target`` (n_samples,) and ``word_vectors`` (a dict of arrays of 16
        dimensions).

    Raises
    ------
    ValueError
        If a parameter is none that it can be, or ``tags_per_image`` is more than a topic has words.

    Examples
    --------
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(3, wrong=0.2, random_state=0)
    >>> made.data.shape, len(made.tags), sorted(made.word_vectors)[:2]
    ((3, 32), 3, ['c0_t0', 'c0_t1'])
    """
    # First of all, while nothing but the parameters is local.
    given = {name: value for name, value in locals().items() if name in _CONSTRAINTS}
    validate_parameter_constraints(_CONSTRAINTS, given, "make_tagged_images")
    if not 1 <= tags_per_image <= n_tags_per_class:
        raise ValueError(
            f"tags_per_image={tags_per_image} should be from 1 to n_tags_per_class="
            f"{n_tags_per_class}."
        )
    rng = check_random_state(random_state)
    words = [[f"c{c}_t{t}" for t in range(n_tags_per_class)] for c in range(n_classes)]
    # Words of a topic lie around it, much nearer than topics to each other.
    topics = rng.standard_normal((n_classes, 16))
    word_vectors = {
        word: (topics[c] + 0.3 * rng.standard_normal(16)).astype(np.float32)
        for c, topic in enumerate(words)
        for word in topic
    }
    # As many of each class as can be, in random order.
    target = np.resize(np.arange(n_classes), n_samples)
    rng.shuffle(target)
    clean = [sorted(rng.choice(words[c], tags_per_image, replace=False).tolist()) for c in target]
    pairs = zip(clean, target.tolist(), strict=True)
    tags = [_spoil(row, c, words, missing, wrong, rng) for row, c in pairs]
    if kind == "features":
        centres = rng.standard_normal((n_classes, n_features))
        data = centres[target] + spread * rng.standard_normal((n_samples, n_features))
        data = data.astype(np.float32)
    else:
        data = _stripes(target, n_classes, image_size, spread, rng)
    return Bunch(data=data, tags=tags, clean_tags=clean, target=target, word_vectors=word_vectors)


def _spoil(
    tags: list[str],
    own: int,
    words: list[list[str]],
    missing: float,
    wrong: float,
    rng: np.random.RandomState,
) -> list[str]:
    """Return tags with some lost and some replaced by words of another class."""
    others = [word for c, topic in enumerate(words) if c != own for word in topic]
    kept: set[str] = set()  # two tags may be replaced by one word
    for tag in tags:
        if rng.uniform() < missing:
            continue
        kept.add(str(rng.choice(others)) if others and rng.uniform() < wrong else tag)
    return sorted(kept)


def _stripes(
    target: np.ndarray, n_classes: int, size: int, spread: float, rng: np.random.RandomState
) -> np.ndarray:
    """Draw a picture for each class number, (n, size, size, 3), uint8."""
    colours = rng.uniform(0, 255, (n_classes, 2, 3))
    # Direction and frequency tell classes apart even where two drew similar colours.
    angle = np.pi * np.arange(n_classes) / n_classes
    frequency = 2 + np.arange(n_classes) % 3
    y, x = np.mgrid[:size, :size] / size
    pictures = np.empty((len(target), size, size, 3), dtype=np.uint8)
    for n, c in enumerate(target):
        across = x * np.cos(angle[c]) + y * np.sin(angle[c])
        # Where the stripes begin says nothing of the class, so it is drawn.
        wave = np.sin(2 * np.pi * (frequency[c] * across + rng.uniform()))[..., None]
        picture = np.where(wave > 0, colours[c, 0], colours[c, 1])
        noisy = picture + 100 * spread * rng.standard_normal(picture.shape)
        pictures[n] = np.clip(noisy, 0, 255)
    return pictures
