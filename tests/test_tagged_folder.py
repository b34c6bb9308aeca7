"""Folders of images with tags in a table or beside each image."""

import json
import warnings

import pytest
from PIL import Image

from skwsdhq.datasets import load_tagged_folder
from skwsdhq.images import read_image
from skwsdhq.images.reading import picture_suffixes


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


NAMES = ["a.PNG", "b.jpg", "sub/c.webp"]
CSV = 'file_name,tags\na.PNG,"Cat, black  cat,cat"\nsub\\c.webp,"Dög"\n'


def check(data, folder):
    assert data.names == NAMES
    assert data.images == [str(folder / name) for name in NAMES]
    assert data.tags == [["cat", "black cat"], [], ["dög"]]
    assert data.untagged.tolist() == [1]
    assert data.missing == []
    assert "3 images" in data.DESCR
    assert "3 different tags, 1 images without tags" in data.DESCR


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(folder, encoding):
    (folder / "tags.csv").write_text(CSV, encoding=encoding)
    check(load_tagged_folder(folder), folder)
    check(load_tagged_folder(str(folder), folder / "tags.csv"), folder)
    (folder / "tags.csv").rename(folder / "other.csv")
    check(load_tagged_folder(folder, str(folder / "other.csv")), folder)
    images, tags = load_tagged_folder(folder, folder / "other.csv", return_X_y=True)
    assert len(images) == len(tags) == 3


def test_other_columns_and_separators(folder):
    (folder / "x.csv").write_text(
        "id;who;what;more\n1;a.PNG;Cat|black cat;\n2;sub/c.webp;;Dög|Cat\n"
    )
    data = load_tagged_folder(
        folder,
        folder / "x.csv",
        file_column="who",
        tag_columns=["what", "more"],
        separator="|",
        delimiter=";",
        lowercase=False,
    )
    assert data.tags == [["Cat", "black cat"], [], ["Dög", "Cat"]]
    (folder / "x.tsv").write_text("Image\tKeywords\na.PNG\tcat,black cat\nsub/c.webp\tdög\n")
    check(load_tagged_folder(folder, folder / "x.tsv"), folder)


def test_tags_that_were_not_quoted(folder):
    (folder / "tags.csv").write_text("file,tags\na.PNG,cat,black cat\nb.jpg\nsub/c.webp,dög\n")
    check(load_tagged_folder(folder), folder)


def test_a_picture_on_several_lines(folder):
    (folder / "tags.csv").write_text("file,tag\na.PNG,cat\nsub/c.webp,dög\na.PNG,black cat\n")
    check(load_tagged_folder(folder), folder)


def test_jsonl(folder):
    lines = [
        {"file_name": "a.PNG", "tags": ["Cat", "black cat"], "width": 4},
        {"tags": "dög,", "file_name": "./sub/c.webp"},
        {"file_name": "b.jpg", "tags": None},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(text)
    check(load_tagged_folder(folder), folder)


def test_sidecars(folder):
    (folder / "a.txt").write_text("Cat,black cat\n\ncat\n")
    (folder / "sub" / "c.webp.txt").write_text("dög", encoding="utf-8-sig")
    check(load_tagged_folder(folder), folder)
    (folder / "tags.csv").write_text("file,tags\n")
    check(load_tagged_folder(folder, "sidecar"), folder)


def test_images_that_are_not_there(folder):
    (folder / "tags.csv").write_text(CSV + "".join(f"gone{i}.jpg,x\n" for i in range(7)))
    with pytest.raises(FileNotFoundError, match=r"7 images.*gone0\.jpg.*\.\.\..*missing='warn'"):
        load_tagged_folder(folder)
    with pytest.warns(UserWarning, match="7 images that are not in"):
        data = load_tagged_folder(folder, missing="warn")
    assert data.missing == [f"gone{i}.jpg" for i in range(7)]
    assert load_tagged_folder(folder, missing="ignore").tags == data.tags


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"file,tags\na.PNG,d\xf6g\n", r"line 2, is not in utf-8-sig.*latin-1"),
        ("x.csv", b"file,words\na.PNG,dog\n", r"no column any of tags.*'words'.*tag_columns="),
        ("x.csv", b"a.PNG,dog\nb.jpg,cat\n", r"no column any of file_name.*file_column="),
        ("x.csv", b"file,tags\n,dog\n", r"line 2, has no file"),
        ("x.jsonl", b'{"file": "a.PNG", "tags": []}\n{"file": \n', r"line 2, is no JSON"),
        ("x.jsonl", b"[1]\n", r"line 1, should be a JSON object"),
        ("x.xls", b"", r"should be a \.csv"),
    ],
)
def test_tables_that_cannot_be_read(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tagged_folder(folder, folder / name)
    if b"\xf6" in content:
        data = load_tagged_folder(folder, folder / name, encoding="latin-1")
        assert data.tags[0] == ["dög"]


def test_folders_without_what_is_needed(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"no tags in .* as a\.txt"):
        load_tagged_folder(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        load_tagged_folder(folder, "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_tagged_folder(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no image"):
        load_tagged_folder(tmp_path_factory.mktemp("empty"))
    (folder / "tags.csv").write_text(CSV)
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"tags\.csv and metadata\.jsonl"):
        load_tagged_folder(folder)
    with pytest.raises(ValueError, match="missing='skip'"):
        load_tagged_folder(folder, missing="skip")
    with pytest.raises(ValueError, match="separator"):
        load_tagged_folder(folder, separator="")
    with pytest.raises(ValueError, match="'what'"):
        load_tagged_folder(folder, folder / "tags.csv", tag_columns="what")


def test_every_picture_that_can_be_read_is_listed(tmp_path):
    """AVIF, for one, where Pillow has it; and no kind that it only knows by name."""
    suffixes = [".avif", ".jp2", ".ppm", ".tga", ".ico", ".jpe", ".jfif", ".BMP", ".tif", ".qoi"]
    suffixes = [suffix for suffix in suffixes if suffix.lower() in picture_suffixes()]
    assert {".ppm", ".tga", ".jfif"} < set(suffixes)
    for suffix in suffixes:
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"picture{suffix}")
    for suffix in (".pdf", ".h5", ".mpg", ".wmf", ".txt", ".md"):
        (tmp_path / f"other{suffix}").write_text("no picture")
    (tmp_path / "tags.csv").write_text(f"file,tags\npicture{suffixes[0]},red\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .wmf is a picture for some
        data = load_tagged_folder(tmp_path)
    assert sorted(data.names) == sorted(f"picture{suffix}" for suffix in suffixes)
    assert len(data.passed_over) == 6
    for path in data.images:
        assert read_image(path).size == (16, 16)


def test_what_is_passed_over_is_told(folder):
    (folder / "tags.csv").write_text("file,tags\na.PNG,cat\nphoto.heic,dog\nnone.jpg,x\n")
    (folder / "photo.heic").write_bytes(b"a picture of a telephone")
    (folder / "notes.md").write_text("nothing")
    with pytest.raises(
        FileNotFoundError, match=r"names 2 images .* 1 of them are there, .* read here: photo\.heic"
    ):
        load_tagged_folder(folder)
    with pytest.warns(UserWarning, match=r"1 pictures .* are passed over: photo\.heic"):
        data = load_tagged_folder(folder, missing="ignore")
    assert data.passed_over == ["notes.md", "photo.heic"]
    assert data.missing == ["photo.heic", "none.jpg"]
    assert data.names == NAMES


def test_sidecars_are_not_passed_over(folder):
    (folder / "a.txt").write_text("cat")
    (folder / "b.jpg.txt").write_text("dog")
    (folder / "readme.txt").write_text("nothing")
    assert load_tagged_folder(folder).passed_over == ["readme.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", 'file,tags\na.PNG,"cat\nb.jpg,dog\nsub/c.webp,sky\n', r"x\.csv.*line 2, "),
        ("x.csv", 'file,tags\na.PNG,"cat\nb.jpg,"dog"\n', r"line 2, "),
        ("x.csv", 'file,tags\na.PNG,"cat\nb.jpg,dog\nsub/c.webp,"\n', r"line 2, .*'b\.jpg'"),
        ("x.csv", 'file,tags\na.PNG,cat\nb.jpg,"cat" dog\n', r"line 3, "),
        ("x.csv", "file,tags,size\na.PNG,cat,4\nb.jpg,cat,dog,4\n", r"line 3, has 4 cells for 3"),
        ("x.csv", "file,tags,tags\na.PNG,cat,dog\n", r"line 1, has 2 columns 'tags'"),
        ("x.csv", "file;tags\na.PNG;cat\n", r"delimiter=';'"),
        ("x.csv", "file\ttags\na.PNG\tcat\n", r"delimiter='\\t'"),
        ("x.csv", "file,tags\na.PNG,c\0t\n", r"line 2, holds a zero byte"),
        ("x.csv", f"file,tags\na.PNG,{'c' * 200_000}\n", r"line 2, .*field larger"),
        ("x.csv", "file,words\n", r"no column any of tags"),
        ("x.csv", " \n", r"x\.csv.* is empty"),
        ("x.jsonl", "", r"x\.jsonl.* is empty"),
        ("x.jsonl", '{"file": "a.PNG", "tags": {"cat": 0.9}}', r"line 1, has an object"),
        ("x.jsonl", '\n{"file": "a.PNG", "tags": [["cat"]]}', r"line 2, has a list in a list"),
        ("x.jsonl", '{"file": "a.PNG", "tags": [true]}', r"line 1, has true or false"),
        ("x.jsonl", '{"file": "a.PNG", "tags": [], "tags": ["a"]}', r"line 1, .*'tags' twice"),
        ("x.jsonl", '{"file": ["a.PNG"], "tags": []}', r"line 1, has no file"),
        ("x.jsonl", "[" * 100_000, r"line 1, is no JSON"),
    ],
)
def test_damaged_tables_name_file_and_line(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tagged_folder(folder, folder / name)


def test_wide_characters_ask_for_their_encoding(folder):
    for encoding in ("utf-16", "utf-16-le"):
        (folder / "x.csv").write_text(CSV, encoding=encoding)
        with pytest.raises(ValueError, match=r"x\.csv.*encoding='utf-16"):
            load_tagged_folder(folder, folder / "x.csv")
        check(load_tagged_folder(folder, folder / "x.csv", encoding=encoding), folder)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_ends_of_lines(folder, end):
    (folder / "tags.csv").write_bytes(CSV.replace("\n", end).encode())
    check(load_tagged_folder(folder), folder)


def test_a_header_alone_and_blanks_before_quotes(folder):
    (folder / "tags.csv").write_text("file,tags\n")
    assert load_tagged_folder(folder).tags == [[], [], []]
    (folder / "tags.csv").write_text('file, tags\na.PNG, "cat, black cat"\nsub/c.webp, dög\n')
    check(load_tagged_folder(folder), folder)


def test_items_of_json_lists_stay_whole(folder):
    lines = [
        {"file": "a.PNG", "tags": ["washington, dc", "cat", None, 5, 2.0, " "]},
        {"file": "b.jpg", "tags": "washington, dc"},
        {"file": "sub/c.webp", "tags": 7},
    ]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_tagged_folder(folder).tags == [
        ["washington, dc", "cat", "5", "2"],
        ["washington", "dc"],
        ["7"],
    ]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_lines_end_at_line_feeds_only(folder, odd):
    text = json.dumps({"file": "a.PNG", "tags": [f"cat{odd}dog"]}, ensure_ascii=False)
    text = text.replace("\\u000b", "\v") if odd in "\v\f\x1c" else text
    (folder / "tags.jsonl").write_text(text + "\r\n", encoding="utf-8")
    assert load_tagged_folder(folder).tags == [["cat dog"], [], []]
    (folder / "tags.csv").write_text(f"file,tags\na.PNG,cat{odd}dog\n", encoding="utf-8")
    assert load_tagged_folder(folder, folder / "tags.csv").tags == [["cat dog"], [], []]
    (folder / "a.txt").write_text(f"cat{odd}dog\nsky", encoding="utf-8")
    assert load_tagged_folder(folder, "sidecar").tags == [["cat dog", "sky"], [], []]


def test_names_and_tags_in_either_form_of_unicode(folder):
    Image.new("RGB", (4, 4)).save(folder / "cafe\u0301.png")
    (folder / "tags.csv").write_text("file,tags\ncafé.png,Cafe\u0301\n", encoding="utf-8")
    data = load_tagged_folder(folder)
    assert data.tags[data.names.index("cafe\u0301.png")] == ["café"]
    assert data.missing == []
    (folder / "café.txt").write_text("tea")
    data = load_tagged_folder(folder, "sidecar")
    assert data.tags[data.names.index("cafe\u0301.png")] == ["tea"]
