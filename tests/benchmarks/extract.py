"""Features of JPEGs by the thousand: how fast against the network alone, and in what memory.

    python tests/benchmarks/extract.py                      # 20,000 files, mobilenet_v3_small
    python tests/benchmarks/extract.py --backbone efficientnet_lite0 --n-images 2000

Rounds alternate between `extract_features` on files and the same network on tensors that are
ready, in one process; the ratio is of images a second by the clock on the wall, since reading
ahead is about waiting, with all threads that torch takes. Then a process of its own extracts all
files, and tells its peak of resident memory, with all libraries. Files are made in a temporary
folder, 500 × 375 pixels of photograph-like noise. Random weights unless the network is packaged.
"""

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_DIFFERENT = 200


def make_files(folder, n_images):
    """Blobs of all sizes with fine noise, which JPEG packs into some 50 kB, as a photograph."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    contents = []
    for _ in range(min(N_DIFFERENT, n_images)):
        pixels = rng.normal(0, 6, (375, 500, 3))
        for side in (4, 16, 48):
            blobs = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += np.asarray(blobs.resize((500, 375), Image.Resampling.BICUBIC)) / 3.0
        path = folder / "one.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=88)
        contents.append(path.read_bytes())
    path.unlink()
    paths = [str(folder / f"{i:06d}.jpg") for i in range(n_images)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(contents[i % len(contents)])
    return paths


def load(name):
    """The network that is asked for; random weights where its own are not packaged."""
    import torchvision

    from skwsdhq.backbones import Backbone, load_backbone

    if name == "efficientnet_lite0":
        return load_backbone(name)
    module, _ = _headless(torchvision.models.get_model(name, weights=None))
    return Backbone(module.eval())


def _headless(module):
    from skwsdhq.backbones.networks import _without_classifier

    return _without_classifier(module)


def compare(paths, args):
    """Images a second of both in each round."""
    import torch

    from skwsdhq.backbones import extract_features
    from skwsdhq.backbones.run import compute_dtype
    from skwsdhq.images import resized_batches

    network = load(args.backbone)
    mean = torch.tensor(network.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(network.std).reshape(1, 3, 1, 1)
    pixels = next(resized_batches(paths, network.size, batch_size=args.batch_size))
    tensor = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std
    dtype = compute_dtype(args.dtype, torch.device("cpu"))
    chunk = paths[: args.chunk]

    def bare():
        module = network.module.to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            for _ in range(0, len(chunk), args.batch_size):
                module(tensor)

    def whole():
        extract_features(
            chunk, network, batch_size=args.batch_size, n_jobs=args.n_jobs, dtype=args.dtype
        )

    def decode():
        for _ in resized_batches(chunk, network.size, batch_size=16, n_jobs=args.n_jobs):
            pass

    rounds = []
    for _ in range(args.rounds):
        speeds = []
        for call in (whole, bare, decode):
            start = time.perf_counter()
            call()
            speeds.append(len(chunk) / (time.perf_counter() - start))
        rounds.append(speeds)
    return rounds


def extract_all(paths, args):
    """In a process of its own: features of all files, and the peak of memory."""
    from skwsdhq.backbones import extract_features

    start = time.perf_counter()
    features = extract_features(
        paths,
        load(args.backbone),
        batch_size=args.batch_size,
        n_jobs=args.n_jobs,
        dtype=args.dtype,
    )
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(
        f"{features.shape} features in {seconds:.0f} s, {len(paths) / seconds:.0f} images a second"
    )
    print(f"peak of resident memory {peak / 1e9:.2f} GB, asked: 1.5 GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--n-images", type=int, default=20_000)
    parser.add_argument("--chunk", type=int, default=800, help="images of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--folder", help="of files that are there (for the process of its own)")
    args = parser.parse_args()
    if args.folder:
        extract_all(sorted(map(str, Path(args.folder).glob("*.jpg"))), args)
        return
    import torch

    versions = {n: importlib.metadata.version(n) for n in ("torch", "torchvision", "pillow")}
    print(f"python {platform.python_version()}, {versions}, {os.cpu_count()} processors,")
    print(f"{torch.get_num_threads()} threads of torch, {args.n_jobs} that read; {args.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), args.n_images)
        size = sum(os.path.getsize(path) for path in paths) / len(paths)
        print(f"{len(paths)} files of {size / 1e3:.0f} kB; rounds of {args.chunk}")
        rounds = compare(paths, args)
        names = ("extract_features on files", "network on ready tensors", "reading alone")
        for name, speeds in zip(names, zip(*rounds, strict=True), strict=True):
            print(f"{name:28}{statistics.median(speeds):8.0f} images a second")
        ratios = [whole / bare for whole, bare, _ in rounds]
        print(
            f"{'ratio':28}{statistics.median(ratios):8.2f} ({min(ratios):.2f} to "
            f"{max(ratios):.2f}), asked: 0.70"
        )
        command = [sys.executable, *sys.argv, "--folder", folder]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
