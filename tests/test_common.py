"""scikit-learn's own checks, driven from one place; none is expected to fail."""

import pytest
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skwsdhq import (
    HypersphereEmbedder,
    ImageLoader,
    TagEnhancer,
    TagKernelRegressor,
    WSDHQuantizer,
)
from skwsdhq.embedding import FeatureScaler


def small_embedder():
    return HypersphereEmbedder(hidden_layer_sizes=(16,), max_iter=3)


ESTIMATORS = [
    TagEnhancer(),
    TagEnhancer(sparse_output=False),
    ImageLoader(),
    HypersphereEmbedder(max_iter=2, hidden_layer_sizes=(16,)),
    TagKernelRegressor(),
    FeatureScaler(),
    FeatureScaler(power=1, scale=False),
    WSDHQuantizer(TagKernelRegressor(), n_codebooks=2, n_codewords=4, codebook_iters=2),
    WSDHQuantizer(small_embedder(), n_codebooks=2, n_codewords=4, codebook_iters=2),
    WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=4, codebook_iters=2),
    WSDHQuantizer.from_paper(
        mode="code",
        finetune=None,
        n_bits=16,
        n_codewords=4,
        embedder__max_iter=3,
        embedder__hidden_layer_sizes=(16,),
        embedder__scaler__scale=False,
        embedder__optimizer__drop_period=2,
    ),
    WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=4, codebook_iters=2, normalize=False),
    WSDHQuantizer(
        "passthrough",
        n_codebooks=2,
        n_codewords=4,
        codebook_iters=2,
        tag_enhancer=TagEnhancer(),
    ),
]

# What parametrize_with_checks leaves out.
MORE_CHECKS = [
    checks.check_param_validation,
    checks.check_dataframe_column_names_consistency,
    checks.check_inplace_ensure_writeable,
    checks.check_transformer_get_feature_names_out,
    checks.check_transformer_get_feature_names_out_pandas,
    checks.check_set_output_transform,
    checks.check_set_output_transform_pandas,
    checks.check_global_output_transform_pandas,
    checks.check_set_output_transform_polars,
    checks.check_global_set_output_transform_polars,
    checks.check_get_feature_names_out_error,
]


@pytest.mark.filterwarnings("ignore")  # the checks fit on tags and labels that warn
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: repr(estimator)[:60])
@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
def test_more_scikit_learn_checks(estimator, check):
    check(type(estimator).__name__, estimator)


def test_default_embedder_within_the_quantizer_is_checked_alike():
    quantizer = WSDHQuantizer(n_codebooks=2, n_codewords=4)
    name = type(quantizer).__name__
    checks.check_fit2d_predict1d(name, quantizer)
    checks.check_param_validation(name, quantizer)
