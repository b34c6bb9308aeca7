"""A large collection of pictures: created, killed five times, gone on with, and searched.

``pytest -m slow tests/test_collection_large.py --pictures 100000 -s`` is its full size, and prints
what it took. The pictures are read from their files; a random map of their pixels stands in for the
network, which would take most of the time and proves nothing here.
"""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from skwsdhq import Collection

N_KINDS = 50
PROGRAM = """
    import json, sys, time
    import numpy as np
    from PIL import Image
    from skwsdhq import Collection, TagKernelRegressor, WSDHQuantizer
    from skwsdhq.collection import _source

    work, folder, place, log = sys.argv[1:]
    weights = np.random.RandomState(0).standard_normal((48, 1280)).astype("f4")

    def extract(images, backbone, *, on_error="raise", **options):
        pixels = []
        for image in images:
            with Image.open(image) as opened:
                pixels.append(np.asarray(opened.convert("RGB").resize((4, 4))).ravel())
        with open(log, "a") as file:
            file.write("." * len(images))
        features = np.maximum(np.array(pixels, dtype="f4") / 255 @ weights, 0)
        return (features, np.arange(len(images))) if on_error == "skip" else features

    _source.extract_features = extract
    began = time.perf_counter(), time.process_time()
    if work == "create":
        photos = Collection.create(
            place, folder, backbone="efficientnet_lite0", n_bits=32, random_state=0
        )
    else:
        photos = Collection.open(place)
        found = photos.search(tags=["kind7"], k=20)
        assert sum("kind7" in tags for tags in found.tags) > 10, found
    with open("/proc/self/status") as status:  # what rusage tells counts the parent as well
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({
        "n": len(photos),
        "wall_s": time.perf_counter() - began[0],
        "cpu_s": time.process_time() - began[1],
        "peak_mb": peak / 1024,
    }))
"""


def make_pictures(folder, n):
    """JPEGs of 50 kinds, each of its own few colours, and a table of tags with some wrong ones."""
    random = np.random.RandomState(0)
    colours = random.randint(0, 256, (N_KINDS, 4, 4, 3))
    folder.mkdir()
    lines = ["file,tags,number"]
    for i in range(n):
        kind = i % N_KINDS
        pixels = np.clip(colours[kind] + random.randint(-40, 41, (4, 4, 3)), 0, 255)
        picture = Image.fromarray(pixels.astype(np.uint8)).resize((32, 32))
        if i % 1000 == 0:
            (folder / f"{i // 1000:03}").mkdir()
        name = f"{i // 1000:03}/{i:06}.jpg"
        content = io.BytesIO()
        picture.save(content, "JPEG")
        (folder / name).write_bytes(content.getvalue())
        said = kind if random.random_sample() > 0.2 else random.randint(N_KINDS)
        lines.append(f'{name},"kind{said},group{said % 7}",{i}')
    (folder / "tags.csv").write_text("\n".join(lines), "utf-8")


def start(*arguments):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def n_kept(place):
    """Items that are in the database so far."""
    try:
        uri = (place / "items.sqlite").absolute().as_uri()
        with sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=60) as connection:
            return connection.execute("SELECT count(*) FROM features").fetchone()[0]
    except sqlite3.OperationalError:
        return 0  # not yet a database with tables


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_large_collection_survives_five_kills(tmp_path, pytestconfig):
    n = pytestconfig.getoption("pictures")
    folder, place, log = tmp_path / "pictures", tmp_path / "photos", tmp_path / "log"
    make_pictures(folder, n)
    before, begun = 0, time.perf_counter()
    for part in (0.1, 0.3, 0.5, 0.8, 1.0):  # at the last one it learns already
        child = start("create", folder, place, log)
        while n_kept(place) < part * n and child.poll() is None:
            time.sleep(0.02)
        assert child.poll() is None, child.stdout.read()
        child.send_signal(signal.SIGKILL)
        child.communicate()
        kept = n_kept(place)
        assert kept >= max(before, part * n)
        before = kept
    child = start("create", folder, place, log)
    made = json.loads(child.communicate()[0])
    assert child.returncode == 0
    assert made["n"] == n
    # Nothing is extracted twice but what a kill has taken from a transaction.
    assert os.path.getsize(log) <= n + 5 * 512
    child = start("search", folder, place, log)
    found = json.loads(child.communicate()[0])
    assert child.returncode == 0
    print(f"\n{n} pictures: {time.perf_counter() - begun:.0f} s; the last creation {made}; {found}")
    assert made["peak_mb"] < 1500
    assert found["cpu_s"] < 1  # of processor time: machines are shared
    with Collection.open(place) as photos:
        assert len(photos) == n
        assert photos.ids(where={"number": ("<", 3)}) == [f"000/00000{i}.jpg" for i in range(3)]
        assert photos["000/000007.jpg"].columns == {"number": 7}
