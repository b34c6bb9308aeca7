"""Settings of the test process; the package itself never touches thread settings."""

import os

# The estimators' problems in tests are small: two threads would make them slower.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("skwsdhq", deadline=None)
settings.load_profile("skwsdhq")


def pytest_addoption(parser):
    parser.addoption(
        "--pictures",
        type=int,
        default=3000,
        help="in the slow test of a large collection; 100000 take some GB of disk and an hour",
    )


@pytest.fixture(scope="session")
def emoji():
    from skwsdhq.datasets import load_emoji

    return load_emoji()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
