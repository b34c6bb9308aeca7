"""Loaders of MIRFLICKR-25000 and NUS-WIDE, on tiny sets in exactly their layouts."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from skwsdhq.datasets import load_mirflickr25k, load_nus_wide, load_openclipart

# fmt: off
POTENTIAL = [
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor",
    "lake", "male", "night", "people", "plant_life", "portrait", "river", "sea", "sky",
    "structures", "sunset", "transport", "tree", "water",
]
RELEVANT = [
    "baby", "bird", "car", "clouds", "dog", "female", "flower", "male", "night", "people",
    "portrait", "river", "sea", "tree",
]
# fmt: on


@pytest.fixture
def mirflickr(tmp_path):
    """Images 1 to 10: tag "even" or "odd", and a rare one for each; concept k holds k + 1."""
    (tmp_path / "mirflickr" / "meta" / "tags").mkdir(parents=True)
    (tmp_path / "mirflickr" / "meta" / "tags_raw").mkdir()
    for i in range(1, 11):
        Image.new("RGB", (4, 4)).save(tmp_path / "mirflickr" / f"im{i}.jpg")
        tags = "" if i == 4 else f"{('even', 'odd')[i % 2]}\r\nrare{i}\r\nnikon\r\n"
        (tmp_path / "mirflickr" / "meta" / "tags" / f"tags{i}.txt").write_text(tags)
        raw = tags.replace("nikon", "Nikon D70  é").encode("latin-1")
        (tmp_path / "mirflickr" / "meta" / "tags_raw" / f"tags{i}.txt").write_bytes(raw)
    annotations = tmp_path / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    (annotations / "README.txt").write_text("24 and 14 files")
    for k, name in enumerate(POTENTIAL):
        (annotations / f"{name}.txt").write_text(f"{k % 10 + 1}\r\n10\r\n12345\r\n")
    for name in RELEVANT:
        (annotations / f"{name}_r1.txt").write_text("1\n")
    return tmp_path


SMALL = {"strict": False, "n_query": 3, "n_train": 4, "min_count": 3}


def test_mirflickr(mirflickr):
    data = load_mirflickr25k(mirflickr, **SMALL)
    assert data.names == [f"im{i}" for i in range(1, 11)]
    assert data.images[9] == str(mirflickr / "mirflickr" / "im10.jpg")
    assert data.tags[:4] == [["nikon", "odd"], ["even", "nikon"], ["nikon", "odd"], []]
    assert data.target_names == POTENTIAL
    assert data.target.shape == (10, 24)
    assert data.target.dtype == np.int64
    assert data.target[0].nonzero()[0].tolist() == [0, 10, 20]
    assert data.target[9].all()
    assert "10 images, 1 without tags; 3 tags" in data.DESCR
    everything = load_mirflickr25k(mirflickr, labels="all", **SMALL)
    assert everything.target.shape == (10, 38)
    assert everything.target_names == sorted(POTENTIAL + [f"{name}_r1" for name in RELEVANT])
    assert everything.target[:, everything.target_names.index("sea_r1")].tolist() == [1] + [0] * 9
    raw = load_mirflickr25k(mirflickr, raw_tags=True, **SMALL)
    assert raw.tags[0] == ["Nikon D70 é", "odd"]
    images, tags = load_mirflickr25k(mirflickr, return_X_y=True, **SMALL)
    assert (images, tags) == (data.images, data.tags)


def test_mirflickr_with_annotations_elsewhere(mirflickr):
    expected = load_mirflickr25k(mirflickr, **SMALL).target
    source = mirflickr / "mirflickr25k_annotations_v080"
    source.rename(mirflickr / "mirflickr" / "annotations")
    assert_array_equal(load_mirflickr25k(mirflickr, **SMALL).target, expected)
    assert_array_equal(load_mirflickr25k(mirflickr / "mirflickr", **SMALL).target, expected)


def check_split(split, n_query, n_train, n_rows):
    assert (len(split.query), len(split.train)) == (n_query, n_train)
    assert sorted([*split.query, *split.database]) == n_rows
    assert set(split.train) <= set(split.database)
    for rows in split.values():
        assert_array_equal(rows, np.unique(rows))


def test_mirflickr_split(mirflickr):
    split = load_mirflickr25k(mirflickr, **SMALL).split
    check_split(split, 3, 4, list(range(10)))
    again = load_mirflickr25k(mirflickr, **SMALL).split
    assert_array_equal(split.train, again.train)
    other = load_mirflickr25k(mirflickr, random_state=1, **SMALL).split
    assert not np.array_equal(split.query, other.query)
    seen = set()
    for seed in range(20):
        everything = load_mirflickr25k(
            mirflickr, random_state=seed, **{**SMALL, "n_train": None}
        ).split
        assert 3 not in everything.train  # it has no tags
        assert set(everything.train) == set(everything.database) - {3}
        seen |= set(everything.query)
    assert len(seen) == 10


def test_mirflickr_that_is_not_whole(mirflickr):
    with pytest.raises(ValueError, match=r"im1\.jpg to im25000\.jpg; it holds 10 images"):
        load_mirflickr25k(mirflickr)
    with pytest.raises(ValueError, match="n_query=2000 should be less than the 10"):
        load_mirflickr25k(mirflickr, strict=False)
    with pytest.raises(ValueError, match="n_train=8 should be <= "):
        load_mirflickr25k(mirflickr, **{**SMALL, "n_train": 8})
    with pytest.raises(ValueError, match="labels='24'"):
        load_mirflickr25k(mirflickr, labels="24")
    (mirflickr / "mirflickr25k_annotations_v080" / "sky.txt").write_text("sky\n")
    with pytest.raises(ValueError, match=r"sky\.txt.*numbers of images; got 'sky'"):
        load_mirflickr25k(mirflickr, **SMALL)
    (mirflickr / "mirflickr25k_annotations_v080" / "sky.txt").unlink()
    (mirflickr / "mirflickr" / "meta" / "tags" / "tags7.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"tags7\.txt"):
        load_mirflickr25k(mirflickr, **SMALL)
    (mirflickr / "mirflickr25k_annotations_v080" / "animals.txt").unlink()
    with pytest.raises(FileNotFoundError, match="annotations of MIRFLICKR"):
        load_mirflickr25k(mirflickr, **SMALL)


def test_mirflickr_counts_concepts(mirflickr, monkeypatch):
    from skwsdhq.datasets import _mirflickr

    monkeypatch.setattr(_mirflickr, "_N_IMAGES", 10)
    data = load_mirflickr25k(mirflickr, **{**SMALL, "strict": True})
    assert len(data.images) == 10
    (mirflickr / "mirflickr25k_annotations_v080" / "sky.txt").unlink()
    with pytest.raises(ValueError, match="should hold 24 concepts; it holds 23"):
        load_mirflickr25k(mirflickr, **{**SMALL, "strict": True})


@pytest.fixture
def nus_wide(tmp_path):
    """Twelve images; concept k of 81 holds the images whose number is below 12 - k."""
    names = [f"{('actor', 'zoo')[i % 2]}\\{i:04d}_{100 + i}.jpg" for i in range(12)]
    for name in names:
        path = tmp_path / "Flickr" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    for folder in ("ImageList", "ConceptsList", "Groundtruth/AllLabels", "NUS_WID_Tags"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageList" / "Imagelist.txt").write_text("\r\n".join(names) + "\r\n")
    concepts = [f"concept{k}" for k in range(81)]
    (tmp_path / "ConceptsList" / "Concepts81.txt").write_text("\n".join(concepts) + "\n")
    for k, name in enumerate(concepts):
        lines = "".join(f"{int(i < 10 - k)}\n" for i in range(12))
        (tmp_path / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt").write_text(lines)
    tags = tmp_path / "NUS_WID_Tags"
    (tags / "TagList1k.txt").write_text("nature\nsky\nwater\n")
    # The lines of the real file end with a tabulator.
    lines = [f"{int(i % 2 == 0)}\t{int(i < 6)}\t0\t\n" for i in range(12)]
    (tags / "AllTags1k.txt").write_text("".join(lines))
    lines = [f"{100 + i}      nature  tag{i} nature \n" for i in range(12)]
    (tags / "All_Tags.txt").write_text("".join(lines))
    return tmp_path


TINY = {"strict": False, "n_query": 2, "n_train": 3, "n_concepts": 4}


def test_nus_wide(nus_wide):
    data = load_nus_wide(nus_wide, **TINY)
    assert data.names[:2] == ["actor/0000_100", "zoo/0001_101"]
    assert data.images[1] == str(nus_wide / "Flickr" / "zoo" / "0001_101.jpg")
    assert data.tags[:2] == [["nature", "sky"], ["sky"]]
    assert data.tags[7] == []
    assert data.target_names == ["concept0", "concept1", "concept2", "concept3"]
    assert data.target.sum(axis=0).tolist() == [10, 9, 8, 7]
    check_split(data.split, 2, 3, list(range(10)))  # the last two carry none of the concepts
    assert not set(data.split.train) & {7, 9}  # they have no tags
    assert "any of which 10 images carry" in data.DESCR
    everything = load_nus_wide(nus_wide, tags="all", **{**TINY, "n_concepts": None})
    assert everything.tags[11] == ["nature", "tag11"]
    assert everything.target.shape == (12, 81)
    check_split(everything.split, 2, 3, list(range(12)))
    images, tags = load_nus_wide(nus_wide, return_X_y=True, **TINY)
    assert (images, tags) == (data.images, data.tags)


def test_nus_wide_in_one_folder(nus_wide):
    expected = load_nus_wide(nus_wide, **TINY)
    for folder in ("ImageList", "ConceptsList", "NUS_WID_Tags"):
        for path in (nus_wide / folder).iterdir():
            path.rename(nus_wide / path.name)
    (nus_wide / "Groundtruth" / "AllLabels").rename(nus_wide / "AllLabels")
    (nus_wide / "Flickr").rename(nus_wide / "images")
    data = load_nus_wide(nus_wide, **TINY)
    assert data.tags == expected.tags
    assert_array_equal(data.target, expected.target)


def test_nus_wide_without_some_images(nus_wide, monkeypatch):
    from skwsdhq.datasets import _nus_wide

    with pytest.raises(ValueError, match="should name 269648 images; it names 12"):
        load_nus_wide(nus_wide)
    monkeypatch.setattr(_nus_wide, "_N_IMAGES", 12)
    assert len(load_nus_wide(nus_wide, **{**TINY, "strict": True}).images) == 12
    (nus_wide / "Flickr" / "zoo" / "0001_101.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 12 images, as 'zoo/0001_101\.jpg'"):
        load_nus_wide(nus_wide, **{**TINY, "strict": True})
    data = load_nus_wide(nus_wide, **TINY)
    assert data.names[:2] == ["actor/0000_100", "actor/0002_102"]
    assert data.tags[1] == ["nature", "sky"]
    assert data.target.sum(axis=0).tolist() == [9, 8, 7, 6]


def test_nus_wide_whose_files_do_not_agree(nus_wide):
    labels = nus_wide / "Groundtruth" / "AllLabels"
    (labels / "Labels_concept5.txt").write_text("1\n-1130179\n" * 6)
    with pytest.raises(ValueError, match=r"Labels_concept5\.txt.*12 lines of 0 or 1"):
        load_nus_wide(nus_wide, **TINY)
    (labels / "Labels_concept5.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Labels_concept5\.txt"):
        load_nus_wide(nus_wide, **TINY)
    (labels / "Labels_concept5.txt").write_text("0\n" * 12)
    (nus_wide / "NUS_WID_Tags" / "AllTags1k.txt").write_text("0\t1\t0\t\n" * 11 + "1\t1\t\n")
    with pytest.raises(ValueError, match="line 12, should hold 3 numbers; it holds 2"):
        load_nus_wide(nus_wide, **TINY)
    (nus_wide / "NUS_WID_Tags" / "All_Tags.txt").write_text("1 a\n")
    with pytest.raises(ValueError, match="should hold 12 lines; it holds 1"):
        load_nus_wide(nus_wide, tags="all", **TINY)
    with pytest.raises(ValueError, match="tags='5k'"):
        load_nus_wide(nus_wide, tags="5k")
    with pytest.raises(ValueError, match="n_concepts=82"):
        load_nus_wide(nus_wide, **{**TINY, "n_concepts": 82})


@pytest.mark.parametrize(
    ("load", "wrong"),
    [
        (load_mirflickr25k, {"n_query": -1}),
        (load_mirflickr25k, {"n_train": 0}),
        (load_mirflickr25k, {"min_count": 1.5}),
        (load_nus_wide, {"n_query": None}),
        (load_nus_wide, {"n_train": 2.0}),
        (load_nus_wide, {"n_concepts": 0}),
        (load_openclipart, {"min_pictures": 0}),
        (load_openclipart, {"min_pictures": True}),
    ],
)
def test_parameters_are_checked_before_any_file(load, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]} should be a whole number"):
        load("/nowhere", **wrong)
