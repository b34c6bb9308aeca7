"""Times of a collection: opening, searching and adding one item, beside its index alone.

``python tests/benchmarks/collection.py`` makes a collection with codes of many more items (of which
it keeps no features), on the disk of ``--folder``, and prints medians of wall time. One thread.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from _harness import environment  # before numpy: it sets the number of threads

# isort: split
import numpy as np

from skwsdhq import Collection, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images


def median_ms(call, n):
    """Median of so many calls, in milliseconds."""
    times = []
    for i in range(n):
        begun = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    made = make_tagged_images(3000, random_state=0)
    model = WSDHQuantizer(
        TagKernelRegressor(TagEnhancer(made.word_vectors)), n_bits=32, random_state=0
    )
    print(environment("numpy", "scikit-learn"))
    n = 1500
    try:
        path = folder / "photos"
        with Collection.create(path, made.data[:n], made.tags[:n], quantizer=model) as photos:
            codes = photos.quantizer.codes_
            random = np.random.RandomState(0)
            # Codes near those of real rows, as more of the same kind would have.
            many = codes[random.randint(n, size=args.rows)].copy()
            changed = np.arange(args.rows), random.randint(codes.shape[1], size=args.rows)
            many[changed] = random.randint(256, size=args.rows)
            with photos._store.writing() as (connection, version):
                rows = np.arange(10**7, 10**7 + args.rows)
                connection.executemany(
                    "INSERT INTO items (row, id, tags) VALUES (?, ?, '[]')",
                    ((int(row), f"m{row}") for row in rows),
                )
                photos._store.append_codes(version, rows, many)
        begun = time.perf_counter()
        photos = Collection.open(path)
        found = photos.search(tags=[made.tags[0][0]], k=20)
        print(f"open to first result    {time.perf_counter() - begun:.3f} s, {len(found)} found")
        tags = [row[0] for row in made.tags[:50]]
        queries = photos.quantizer.embed_query(tags=tags)
        index = photos._snapshot.parts[0][1]
        for kind, call in {
            "index alone": lambda i: index.search(queries[i : i + 1], 20),
            "search by words": lambda i: photos.search(tags=[tags[i]], k=20),
            "search by an item": lambda i: photos.search(like=i, k=20),
            "add of one item": lambda i: photos.add(made.data[n + i : n + i + 1], ids=[f"a{i}"]),
            "add of one with tags": lambda i: photos.add(
                made.data[n + 50 + i : n + 51 + i], [made.tags[n + 50 + i]], ids=[f"b{i}"]
            ),
            "search after them": lambda i: photos.search(tags=[tags[i]], k=20),
        }.items():
            print(f"{kind:24}{median_ms(call, 50):.2f} ms", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
