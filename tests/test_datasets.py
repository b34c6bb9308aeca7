"""The packaged set and the synthetic ones."""

from importlib import resources

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skwsdhq.datasets import _build_emoji, load_emoji, make_tagged_images


def test_emoji_is_what_its_description_says(emoji):
    assert emoji.images.shape == (1911, 64, 64, 3)
    assert emoji.images.dtype == np.uint8
    assert emoji.target.shape == (1911, 10)
    assert emoji.subgroup.shape == (1911, 99)
    for table in (emoji.target, emoji.subgroup):
        assert (table.sum(axis=1) == 1).all()
        assert (table.sum(axis=0) > 0).all()
    assert len(emoji.target_names) == 10
    assert len(emoji.subgroup_names) == 99
    assert len(emoji.names) == len(emoji.tags) == 1911
    for tags in emoji.tags:
        assert tags == sorted(set(tags))
        assert all(tag == tag.strip().lower() and tag for tag in tags)
    assert 10.8 < np.mean([len(tags) for tags in emoji.tags]) < 11
    assert len({tag for tags in emoji.tags for tag in tags}) == 7485
    assert emoji.word_vectors.vector_size == 50
    assert len(emoji.word_vectors) == 5677
    assert emoji.word_vectors.similarity("cat", "dog") > 0.9
    for source in ("16.0.0", "4.0.3", "17.0.0", "Apache", "MIT", "Public Domain"):
        assert source in emoji.DESCR


def test_pictures_belong_to_their_names(emoji):
    white = emoji.images[:, 0, 0].astype(int).min(axis=1)
    assert (white > 250).mean() > 0.7
    heart = emoji.images[emoji.names.index("heart")][32, 32]
    assert heart[0] > 180
    assert heart[1] < 90
    assert "love" in emoji.tags[emoji.names.index("heart")]


def test_return_X_y(emoji):
    images, tags = load_emoji(return_X_y=True)
    assert_array_equal(images, emoji.images)
    assert tags == emoji.tags


def test_size_and_licences_of_the_files():
    folder = resources.files("skwsdhq.datasets") / "data"
    files = {item.name: item for item in folder.iterdir()}
    assert sum(len(item.read_bytes()) for item in files.values()) < 8e6
    notice = files["NOTICE.txt"].read_text()
    for name in files:
        if name.startswith(("emoji_", "emoji.json", "LICENSE")):
            assert name in notice


def test_building_from_packages(tmp_path):
    """The script on packages in their layout, with two pictures."""
    import json

    from PIL import Image

    source, lib, base = tmp_path / "source", tmp_path / "lib", tmp_path / "base"
    (source / "img" / "google" / "64").mkdir(parents=True)
    (lib / "dist").mkdir(parents=True)
    (base / "en").mkdir(parents=True)
    entries = [
        {"unified": "2764-FE0F", "image": "2764-fe0f.png", "short_name": "red_heart",
         "category": "Smileys", "subcategory": "heart", "sort_order": 2},
        {"unified": "1F415", "image": "1f415.png", "short_name": "dog",
         "category": "Animals", "subcategory": "mammal", "sort_order": 1},
    ]  # fmt: skip
    (source / "emoji.json").write_text(json.dumps(entries))
    (lib / "dist" / "emoji-en-US.json").write_text(json.dumps({"❤️": ["Love_it"], "🐕": ["dog"]}))
    (base / "en" / "data.json").write_text(
        json.dumps([{"hexcode": "2764", "tags": ["love it", "red"]}])
    )
    for name, colour in (("2764-fe0f.png", (255, 0, 0, 255)), ("1f415.png", (0, 0, 0, 0))):
        Image.new("RGBA", (64, 64), colour).save(source / "img" / "google" / "64" / name)
    rows = _build_emoji.collect_rows(source, lib, base)
    assert [row["name"] for row in rows] == ["dog", "red heart"]
    assert [row["tags"] for row in rows] == [["dog"], ["love it", "red"]]
    sheet = np.asarray(_build_emoji.build_sheet(rows, source / "img" / "google" / "64"))
    assert_array_equal(sheet[:64, :64], 255)  # transparent on white
    assert_array_equal(sheet[:64, 64:128, 1], 0)


@pytest.mark.parametrize("kind", ["features", "images"])
def test_synthetic_noise_is_what_was_asked(kind):
    made = make_tagged_images(600, missing=0.3, wrong=0.2, kind=kind, random_state=0)
    assert made.data.shape[0] == len(made.tags) == 600
    n_clean = sum(map(len, made.clean_tags))
    kept = sum(
        len(set(row) & set(clean)) for row, clean in zip(made.tags, made.clean_tags, strict=True)
    )
    wrong = sum(
        len(set(row) - set(clean)) for row, clean in zip(made.tags, made.clean_tags, strict=True)
    )
    assert kept / n_clean == pytest.approx(0.7 * 0.8, abs=0.04)
    assert wrong / n_clean == pytest.approx(0.7 * 0.2, abs=0.03)
    for row, c in zip(made.clean_tags, made.target, strict=True):
        assert all(tag.startswith(f"c{c}_") for tag in row)
    again = make_tagged_images(600, missing=0.3, wrong=0.2, kind=kind, random_state=0)
    assert again.tags == made.tags
    assert_array_equal(again.data, made.data)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "x"}, "'kind' parameter of make_tagged_images"),
        ({"missing": 2}, "'missing' parameter .* Got 2"),
        ({"wrong": -0.1}, "'wrong' parameter"),
        ({"wrong": np.nan}, "'wrong' parameter"),
        ({"tags_per_image": 9}, "tags_per_image=9 should be from 1 to n_tags_per_class=4"),
        ({"n_samples": 0}, "'n_samples' parameter .* Got 0"),
        ({"n_samples": 2.5}, "'n_samples' parameter"),
        ({"n_classes": 0}, "'n_classes' parameter .* Got 0"),
        ({"n_tags_per_class": 0}, "'n_tags_per_class' parameter"),
        ({"n_features": 0}, "'n_features' parameter"),
        ({"image_size": 0, "kind": "images"}, "'image_size' parameter"),
        ({"spread": -1.0}, "'spread' parameter"),
        ({"random_state": "x"}, "'random_state' parameter"),
    ],
)
def test_wrong_parameters_of_synthetic_data(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_tagged_images(**{"n_samples": 10, **wrong})
