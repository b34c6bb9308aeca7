"""Whole fits: seconds and peak memory from features to 32-bit codes.

    python tests/benchmarks/fit.py [--features FILE.npy] [--json FILE]
    python tests/benchmarks/fit.py --profile [--features FILE.npy]     where the time of each goes

Two problems, each in a process of its own: the emoji set (EfficientNet-Lite0 features, extracted
first unless a file of them is given) and 20,000 × 1280 synthetic features with 1,000 tags. Features
are not part of the time.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
import warnings

import numpy as np


def emoji_problem(path):
    from skwsdhq import TagEnhancer
    from skwsdhq.backbones import extract_features
    from skwsdhq.datasets import load_emoji

    emoji = load_emoji()
    X = np.load(path) if path else extract_features(emoji.images, n_jobs=2)
    return X, emoji.tags, TagEnhancer(emoji.word_vectors, min_count=5)


def large_problem(path):
    """20,000 images of 200 topics with 5 tags each, of 1,000 that lie near their topics."""
    from skwsdhq import TagEnhancer

    rng = np.random.default_rng(0)
    topics = rng.standard_normal((200, 100)).astype(np.float32)
    near = np.repeat(topics, 5, axis=0) + rng.standard_normal((1000, 100)).astype(np.float32)
    vectors = {f"tag{t}": near[t] for t in range(1000)}
    topic = rng.integers(0, 200, 20_000)
    others = rng.integers(0, 1000, (20_000, 2))
    own = topic[:, None] * 5 + rng.permuted(np.tile(np.arange(5), (20_000, 1)), axis=1)[:, :3]
    tags = [[f"tag{t}" for t in row] for row in np.hstack([own, others])]
    lift = rng.standard_normal((100, 1280)).astype(np.float32)
    X = topics[topic] @ lift + 10 * rng.standard_normal((20_000, 1280), dtype=np.float32)
    return X, tags, TagEnhancer(vectors, tau=0.85, eps=0.05)


PROBLEMS = {"emoji": emoji_problem, "20,000 x 1280": large_problem}


# Parts of a fit, by the end of a file's path and function: time within them, and not within another
# part.
PARTS = {
    "tags to concepts": [("tags/enhancer.py", "fit")],
    "kernel regression": [
        ("embedding/regressor.py", "fit_kernel_to"),
        ("embedding/regressor.py", "placed"),
    ],
    "layers": [
        ("~", "<built-in method torch._C._nn.linear>"),
        ("training/linear.py", "forward"),
        ("training/network.py", "forward"),
    ],
    "margin loss": [("losses/_functions.py", "cosine_margin_loss")],
    "gradients": [("torch/_tensor.py", "backward")],
    "optimizer": [("training/optimizer.py", "step")],
    "codes": [("codebooks/_functions.py", "encode")],
    "codebooks": [
        ("codebooks/_functions.py", "init_codebooks"),
        ("codebooks/_functions.py", "refill_empty_codewords"),
        ("codebooks/_functions.py", "quantization_error"),
        ("codebooks/_update.py", "codebook_statistics"),
        ("codebooks/_update.py", "solve_codebooks"),
    ],
}


def profile(name, path):
    """Print seconds and shares of the parts of a fit, and the functions that take most."""
    import cProfile
    import pstats

    from skwsdhq import WSDHQuantizer

    warnings.simplefilter("ignore")
    X, tags, enhancer = PROBLEMS[name](path)
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    WSDHQuantizer(tag_enhancer=enhancer, random_state=0).fit(X, tags)
    profiler.disable()
    stats = pstats.Stats(profiler)
    whole = stats.total_tt
    print(f"{name}: {whole:.1f} s CPU")
    left = whole
    for part, functions in PARTS.items():
        seconds = sum(
            cumulative
            for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items()
            if any(file.endswith(f) and function == g for f, g in functions)
        )
        left -= seconds
        print(f"  {part:20s} {seconds:7.2f} s  {seconds / whole:6.1%}")
    print(f"  {'everything else':20s} {left:7.2f} s  {left / whole:6.1%}")
    stats.sort_stats("tottime").print_stats(12)


def measure(name, path):
    import torch

    from skwsdhq import WSDHQuantizer

    warnings.simplefilter("ignore")
    X, tags, enhancer = PROBLEMS[name](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    quantizer = WSDHQuantizer(tag_enhancer=enhancer, random_state=0).fit(X, tags)
    return {
        "problem": name,
        "shape": X.shape,
        "n_tags": len(quantizer.tag_enhancer_.vocabulary_),
        "n_concepts": len(quantizer.tag_enhancer_.concept_names_),
        "n_bits": quantizer.n_bits_,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_before_mb": before / 1024,
        "threads": torch.get_num_threads(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="")
    parser.add_argument("--json", default="")
    parser.add_argument("--only", default="", choices=["", *PROBLEMS])
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.profile:
        for name in [args.only] if args.only else PROBLEMS:
            profile(name, args.features)
        return
    if args.only:
        print(json.dumps(measure(args.only, args.features)))
        return
    rows = []
    print(f"Python {platform.python_version()}, numpy {np.__version__}")
    for name in PROBLEMS:
        command = [sys.executable, __file__, "--only", name, "--features", args.features]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(row := json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{name:14s} C = {row['n_concepts']:4d}  {row['wall_s']:6.1f} s wall  "
            f"{row['cpu_s']:6.1f} s CPU  peak {row['peak_mb']:6.0f} MB "
            f"({row['peak_before_mb']:.0f} before)  {row['threads']} threads",
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
