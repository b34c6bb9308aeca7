"""The loader of Debian's openclipart packages, on small folders and packages of their layout."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from skwsdhq.datasets import load_openclipart

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">
<dc:title>{title}</dc:title><dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>Ann Artist</dc:title></cc:Agent></dc:creator>
</cc:Work></rdf:RDF></metadata><path d="M 0 0"/></svg>
"""


def add(root, name, tags, colour, title="", comment=None):
    for kind in ("png", "svg"):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    items = "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    (root / "svg" / f"{name}.svg").write_text(SVG.format(title=title, items=items))
    path = root / "png" / f"{name}.png"
    Image.new("RGBA", (4, 4), (colour, 0, 0, 255)).save(path)
    if comment:  # other bytes, the same picture
        text = b"tEXt" + comment
        chunk = struct.pack(">I", len(comment)) + text + struct.pack(">I", zlib.crc32(text))
        content = path.read_bytes()
        path.write_bytes(content[:33] + chunk + content[33:])


@pytest.fixture
def library(tmp_path):
    root = tmp_path / "usr" / "share" / "openclipart"
    add(
        root,
        "animals/birds/duck",
        ["Duck", "hash", "", "BIRD", "animals", "water_bird"],
        1,
        "A duck",
    )
    add(root, "animals/birds/owl", ["owl", "night", "Ann Artist"], 2)
    add(root, "animals/mammals/dog", ["dog", "pet, loyal", "http://dogs.org"], 3)
    add(root, "food/bread", ["&amp;eacute;clair", "food"], 4)
    add(root, "food/apple", ["food", "unsorted", "foods"], 5)
    add(root, "signs_and_symbols/flags/europe/italy", ["sign", "flag", "europe", "symbols"], 6)
    add(root, "shapes/stars/star_1", ["star"], 7)
    add(root, "unsorted/thing", ["thing"], 8)
    add(root, "animals/duck_again", ["drake"], 1, comment=b"Comment\0another day")
    add(root, "food/roast", ["roast"], 1)
    (root / "svg" / "food" / "roast.svg").rename(root / "svg" / "food" / "beef.svg")
    return root


def test_what_is_kept_and_what_is_not(library, tmp_path):
    for home in (library, tmp_path, str(tmp_path)):
        data = load_openclipart(home, min_pictures=1)
        assert [path.removeprefix(f"{library}/png/") for path in data.images] == [
            "animals/birds/duck.png",
            "animals/birds/owl.png",
            "animals/mammals/dog.png",
            "food/bread.png",
            "signs_and_symbols/flags/europe/italy.png",
        ]
        assert data.tags == [
            ["drake", "duck", "water"],
            ["night", "owl"],
            ["dog", "loyal", "pet"],
            ["éclair"],
            ["europe"],
        ]
        assert data.names == ["A duck", "owl", "dog", "bread", "italy"]
    assert data.target_names == ["animals", "food", "signs_and_symbols"]
    assert data.target.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert data.target.dtype == np.int64
    # The copy that lies directly in animals gives its label too.
    assert data.subgroup_names == [
        "animals", "animals/birds", "animals/mammals", "food", "signs_and_symbols/flags",
    ]  # fmt: skip
    assert data.subgroup[0].tolist() == [1, 1, 0, 0, 0]
    for part in (
        "5 pictures with 10 different tags, 2.0 a picture",
        "3 first-level",
        "2 pictures of generated families",
        "1 pictures without a drawing",
        "0 pictures of more than 40",
        "1 copies",
        "cleaned: 1 dropped",
        "CC0",
    ):
        assert part in " ".join(data.DESCR.split()), part
    images, tags = load_openclipart(library, return_X_y=True)
    assert (images, tags) == (data.images, data.tags)


def test_small_folders(library):
    data = load_openclipart(library, min_pictures=2)
    # Both copies of the duck count for birds once; mammals are merged, signs are no label.
    assert data.subgroup_names == ["animals", "animals/birds"]
    assert data.subgroup.tolist() == [[1, 1], [0, 1], [1, 0], [0, 0], [0, 0]]
    assert data.target_names == ["animals"]
    assert_array_equal(data.target[:, 0], [1, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="min_pictures=0"):
        load_openclipart(library, min_pictures=0)


def test_untagged_and_families_on_request(library):
    data = load_openclipart(library, keep_untagged=True, drop_folders=(), min_pictures=1)
    assert len(data.images) == 8
    assert data.tags[data.names.index("apple")] == []
    assert data.tags[data.names.index("star 1")] == []  # named by its folder
    assert "cleaned: kept" in data.DESCR


def test_addresses_in_memory_are_no_tags(library):
    add(library, "food/date", ["0x851ce54", "HASH(0x8589fd4)", "0xmas", "hash brown"], 9)
    add(library, "food/fig", ["0x851ce54", "HASH(0x8589fd4)"], 10)
    data = load_openclipart(library)
    assert data.tags[data.names.index("date")] == ["0xmas", "hash brown"]
    assert "fig" not in data.names
    assert "cleaned: 2 dropped" in data.DESCR


def test_huge_pictures_and_broken_drawings(library):
    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + bytes(4)
    (library / "png" / "animals" / "birds" / "owl.png").write_bytes(png)
    svg = library / "svg" / "animals" / "mammals" / "dog.svg"
    svg.write_text(svg.read_text().replace("</svg>", ""))
    data = load_openclipart(library)
    assert data.names == ["A duck", "dog", "bread", "italy"]
    assert data.tags[1] == ["dog", "loyal", "pet"]
    assert "1 pictures of more than 40" in data.DESCR


def deb(path, root, folder, suffix="xz"):
    """A package: an ar archive of a version, a control archive and the files."""
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w:xz") as archive:
        archive.add(root / folder, f"./usr/share/openclipart/{folder}")
        secret = tarfile.TarInfo("../outside")
        secret.size = 3
        archive.addfile(secret, io.BytesIO(b"bad"))
    content = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        (f"data.tar.{suffix}", files.getvalue()),
    ):
        content += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data
        content += b"\n" * (len(data) % 2)
    path.write_bytes(content)


def test_from_the_package_files(library, tmp_path):
    expected = load_openclipart(library)
    home = tmp_path / "home"
    home.mkdir()
    deb(home / "openclipart-png_0.18_all.deb", library, "png")
    with pytest.raises(FileNotFoundError, match=r"apt install.*apt download"):
        load_openclipart(home)
    deb(home / "openclipart-svg_0.18_all.deb", library, "svg")
    for _ in range(2):  # the second time it is there
        data = load_openclipart(home)
        assert data.tags == expected.tags
        assert_array_equal(data.target, expected.target)
    assert not (tmp_path / "outside").exists()
    assert sorted(item.name for item in home.iterdir()) == [
        "openclipart-png_0.18_all.deb",
        "openclipart-svg_0.18_all.deb",
        "usr",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"is cut off"),
        ("broken", "can't be unpacked"),
        ("empty", "no Debian package"),
        ("zst", "dpkg-deb -x"),
    ],
)
def test_package_files_that_cannot_be_read(library, tmp_path, damage, message):
    home = tmp_path / "home"
    home.mkdir()
    deb(home / "openclipart-png_0.18_all.deb", library, "png")
    deb(home / "openclipart-svg_0.18_all.deb", library, "svg", "zst" if damage == "zst" else "xz")
    path = home / "openclipart-svg_0.18_all.deb"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "broken":
        content = bytearray(path.read_bytes())
        content[-600:-300] = bytes(300)
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(OSError, match=message):
        load_openclipart(home)
    assert not list(home.glob(".openclipart-*"))
    assert not (home / "usr" / "share" / "openclipart").exists()
