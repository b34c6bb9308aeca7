"""Parameters of the published method."""

from typing import Any

__all__ = ["paper_parameters"]


def paper_parameters(
    n_bits: int, mode: str = "paper", finetune: str = "all"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters of the quantizer, of the embedder, and of the enhancer of tags.

    Parameters
    ----------
    n_bits : int
        A multiple of 8.
    mode : {"paper", "code"}, default="paper"
        The text of the paper, or the authors' code where it differs.
    finetune : {"all", "last", "head"}, default="all"
    """
    if n_bits < 8 or n_bits % 8:
        raise ValueError(f"n_bits={n_bits} should be a multiple of 8, since K = 256.")
    if mode not in ("paper", "code"):
        raise ValueError(f"mode={mode!r} should be 'paper' or 'code'.")
    code = mode == "code"
    quantizer: dict[str, Any] = {
        "n_codebooks": n_bits // 8,
        "n_codewords": 256,
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
        "finetune": finetune,
        "loss": "adaptive_margin",
        "gamma": 1.0,
        "kernel_weight": 0.0,
        "feature_power": 1.0,
        "max_iter": 40,
        "batch_size": 256,
        "learning_rate": 3e-4,
        "learning_rate_decay": 0.5,
        "ten_crop": True,
    }
    if finetune != "head":
        embedder |= {
            "hidden_layer_sizes": (),
            "feature_scaling": False,
            "head_iter": 0,
            "drop_period": 300,
            "backbone_factor": 1.0,
            # The code multiplies gradients, by whose size Adam divides again.
            "last_layer_factor": 1.0 if code else 10.0,
        }
    enhancer: dict[str, Any] = {"cooccurrence_weight": 0, "remove_components": None}
    return quantizer, embedder, enhancer
