"""Results on any machine: threads, alignment, and what else surrounds a call."""

import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from reference.equal import TOLERANCE, assert_equal_codes, assert_equal_neighbors

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.baselines import CCAITQ, WDHTHasher
from skwsdhq.datasets import make_tagged_images


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(200, wrong=0.1, missing=0.1, random_state=0)


def quantizer(made, **parameters):
    embedder = HypersphereEmbedder(
        TagEnhancer(made.word_vectors), hidden_layer_sizes=(32,), max_iter=3, random_state=0
    )
    defaults = {"n_codebooks": 2, "n_codewords": 16, "codebook_iters": 3, "random_state": 0}
    return WSDHQuantizer(embedder, **{**defaults, **parameters})


@pytest.fixture(scope="module")
def fitted(made):
    return quantizer(made).fit(made.data, made.tags)


def moved(array, offset):
    """The same numbers, that many bytes off a place divisible by 64."""
    buffer = np.empty(array.nbytes + 128, dtype=np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def move_all(value, offset):
    """A fitted estimator whose arrays lie elsewhere."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return moved(value, offset)
    if isinstance(value, list):
        return [move_all(item, offset) for item in value]
    if isinstance(value, dict):
        return {key: move_all(item, offset) for key, item in value.items()}
    if hasattr(value, "get_params"):
        twin = object.__new__(type(value))
        twin.__dict__.update({k: move_all(v, offset) for k, v in vars(value).items()})
        return twin
    return value


@pytest.mark.parametrize("offset", [0, 4, 16, 36])
@pytest.mark.parametrize("n_rows", [1, 5, 200])
def test_alignment_changes_rounding_alone(made, fitted, offset, n_rows):
    X = made.data[:n_rows]
    twin = move_all(fitted, offset)
    assert twin.codebooks_.ctypes.data % 64 == offset
    embeddings = fitted.transform(X)
    for rows in (X, moved(X, offset)):
        assert_allclose(twin.transform(rows), embeddings, rtol=0, atol=TOLERANCE)
        assert_equal_codes(twin.encode(rows), fitted.encode(X), embeddings, fitted.codebooks_)
        assert_equal_neighbors(twin.kneighbors(rows, 9), fitted.kneighbors(X, 9))
    if n_rows == 200:
        score = fitted.score(made.data, made.tags)
        assert twin.score(moved(X, offset), made.tags) == pytest.approx(score, abs=1e-3)


PROGRAM = """
    import hashlib, sys
    import numpy as np
    import torch
    from skwsdhq import HypersphereEmbedder, WSDHQuantizer
    from skwsdhq.baselines import CCAITQ
    from skwsdhq.embedding import TagKernelRegressor
    from skwsdhq.datasets import make_tagged_images

    torch.set_num_threads(int(sys.argv[1]))
    made = make_tagged_images(400, wrong=0.1, missing=0.1, random_state=0)
    X = np.random.RandomState(0).standard_normal((400, 700)).astype(np.float32)
    X[:, : made.data.shape[1]] += 3 * made.data
    embedder = HypersphereEmbedder(
        hidden_layer_sizes=(300,), max_iter=2,
        kernel=TagKernelRegressor(max_landmarks=300), random_state=0
    )
    model = WSDHQuantizer(embedder, n_codewords=64, metric_mix=0.3, random_state=0)
    model.fit(X, made.tags)
    arrays = [
        model.codes_,
        model.codebooks_,
        model.embedder_.coefs_[0],
        model.embedder_.kernel_["coefs"],
        model.tag_enhancer_.concept_vectors_,
        CCAITQ(n_bits=16, random_state=0).fit(X, made.tags).transform(X),
    ]
    print([hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()[:16] for a in arrays])
    assert torch.get_num_threads() == int(sys.argv[1])
"""


@pytest.fixture(scope="module")
def by_numbers_of_threads():
    """What is learned with so many threads of torch's, and of the process's libraries."""

    @functools.cache
    def learned(n_torch, n_process):
        number = str(n_process)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(n_torch)],
            env={**os.environ, **dict.fromkeys(names, number)},
            check=True,
            capture_output=True,
            text=True,
        )
        return result.stdout

    return learned


@pytest.mark.parametrize(
    "numbers", [(3, 4), *(pytest.param(more, marks=pytest.mark.slow) for more in [(2, 1), (2, 2)])]
)
def test_threads_change_nothing_of_what_is_learned(by_numbers_of_threads, numbers):
    assert by_numbers_of_threads(*numbers) == by_numbers_of_threads(1, 1)


def test_n_jobs_changes_nothing_of_what_is_learned(made):
    from joblib import Parallel, delayed

    here = quantizer(made).fit(made.data, made.tags)
    fits = Parallel(n_jobs=2)(delayed(quantizer(made).fit)(made.data, made.tags) for _ in range(2))
    for model in fits:
        assert_array_equal(model.codes_, here.codes_)
        assert_array_equal(model.embedder_.coefs_[0], here.embedder_.coefs_[0])


# --- what torch is told around a call -------------------------------------------------------


def everything(made):
    model = quantizer(made).fit(made.data, made.tags)
    model.partial_fit(made.data, made.tags)
    similarities, rows = model.kneighbors(made.data, 5)
    return {
        "coefs": model.embedder_.coefs_[0],
        "codebooks": model.codebooks_,
        "embeddings": model.transform(made.data),
        "codes": model.encode(made.data),
        "similarities": similarities,
        "rows": rows,
        "score": np.array(model.score(made.data, made.tags)),
        "itq": CCAITQ(n_bits=8, random_state=0).fit(made.data, made.tags).transform(made.data),
        "wdht": WDHTHasher(n_bits=8, max_iter=1, random_state=0)
        .fit(made.data, made.tags)
        .transform(made.data),
    }


@pytest.fixture(scope="module")
def expected(made):
    return everything(made)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
        torch.inference_mode,
        torch.no_grad,
    ],
    ids=["bfloat16", "float16", "inference_mode", "no_grad"],
)
def test_contexts_of_torch_change_nothing(made, expected, around):
    with around():
        found = everything(made)
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_default_dtype_changes_nothing(made, expected, float64_by_default):
    found = everything(made)
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype
