"""Parameters of the published method."""

from typing import Any

from ..embedding import AdamSchedule, FeatureScaler, FineTuning
from ..losses import AdaptiveMargin

__all__ = ["paper_parameters"]


def paper_parameters(
    n_bits: int, mode: str = "paper", finetune: str | None = "all"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return parameters of the quantizer, of the embedder, and of the enhancer of tags.

    Parameters
    ----------
    n_bits : int
        A multiple of 8.
    mode : {"paper", "code"}, default="paper"
        The text of the paper, or the authors' code where it differs.
    finetune : {"all", "last", None}, default="all"
        What of the network learns.
    """
    if n_bits < 8 or n_bits % 8:
        raise ValueError(f"n_bits={n_bits} should be a multiple of 8, since K = 256.")
    if mode not in ("paper", "code"):
        raise ValueError(f"mode={mode!r} should be 'paper' or 'code'.")
    if finetune not in ("all", "last", None):
        raise ValueError(f"finetune={finetune!r} should be 'all', 'last' or None.")
    # Where text and code differ, "code" follows the authors' program, see the user guide.
    code = mode == "code"
    quantizer: dict[str, Any] = {
        "n_codebooks": n_bits // 8,
        "n_codewords": 256,
        # lambda, T in ICM and so on as published; beams and prefixes are this library's.
        "quantization_weight": 1e-4,
        "code_update_period": 2,
        "icm_iters": 3,
        "beam_size": None,
        "prefix_weight": 0.0,
        "metric_mix": 1.0,
        "normalize": not code,
        "init": "subspace" if code else "residual",
        "ridge": 1e-3,
        "codebook_iters": 0 if code else 20,
        "top_k": 5000,
    }
    embedder: dict[str, Any] = {
        "backbone": "alexnet",
        "loss": AdaptiveMargin(gamma=1.0),
        # The regression is this library's.
        "kernel_weight": 0.0,
        "scaler": FeatureScaler(power=1.0),
        "optimizer": AdamSchedule(decay=0.5),
        "max_iter": 40,
        "batch_size": 256,
        "learning_rate": 3e-4,
        "ten_crop": True,
    }
    if finetune is not None:
        # The code multiplies gradients, by whose size Adam divides again.
        factor = 1.0 if code else 10.0
        embedder |= {
            "finetune": FineTuning(finetune, head_iter=0, rate_factor=1.0),
            "hidden_layer_sizes": (),
            # The layer stands on fc7 as it is, as one layer of a network on the next.
            "scaler": FeatureScaler(power=1.0, scale=False),
            "optimizer": AdamSchedule(decay=0.5, drop_period=300, last_layer_factor=factor),
        }
    enhancer: dict[str, Any] = {"cooccurrence_weight": 0, "remove_components": None}
    return quantizer, embedder, enhancer
