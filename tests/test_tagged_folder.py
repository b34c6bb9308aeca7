"""Folders of images with tags in a table or beside each image."""

import json
import warnings

import pytest
from PIL import Image, PngImagePlugin

from skwsdhq.datasets import load_tagged_folder
from skwsdhq.datasets._tag_tables import column_of_texts
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


def test_other_columns_come_along(folder):
    (folder / "tags.csv").write_text(
        "file,tags,year,place,code,size,score\n"
        "a.PNG,cat,2001,Łódź,0047,1,0.5\n"
        "sub/c.webp,dog, 1999 ,,12,,1e3\n",
        encoding="utf-8",
    )
    data = load_tagged_folder(folder)
    assert data.columns == {
        "year": [2001, None, 1999],
        "place": ["Łódź", None, None],
        "code": ["0047", None, "12"],  # a name of digits, not a number
        "size": [1, None, None],
        "score": [0.5, None, 1000.0],
    }
    assert isinstance(data.columns["year"][0], int)
    assert data.repeated == {}
    (folder / "tags.csv").unlink()
    lines = [
        {"file": "a.PNG", "tags": ["cat"], "year": 2001, "more": {"a": [1]}},
        {"file": "b.jpg", "tags": ["cat"], "place": "Oslo", "year": None, "code": "0047"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_tagged_folder(folder).columns == {
        "year": [2001, None, None],
        "more": [{"a": [1]}, None, None],
        "place": [None, "Oslo", None],
        "code": [None, "0047", None],
    }


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2", "+3"], [1, -2, 3]),
        (["1", "2.5", ""], [1.0, 2.5, None]),
        (["1", "two"], ["1", "two"]),
        (["0", "00"], ["0", "00"]),
        (["9" * 18, "9" * 25], [float("9" * 18), float("9" * 25)]),
        (["nan", "inf"], ["nan", "inf"]),
        (["1e999"], ["1e999"]),
        (["１"], ["１"]),
        (["1_0"], ["1_0"]),
        ([None, ""], [None, None]),
    ],
)
def test_cells_that_are_numbers(cells, expected):
    found = column_of_texts(cells)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_lines_that_name_one_image_twice_are_reported(folder):
    table = folder / "tags.csv"
    table.write_text("file,tag,year\na.PNG,cat,\nb.jpg,x,3\n\n./a.PNG,black cat,2001\n")
    data = load_tagged_folder(folder)
    assert data.repeated == {"a.PNG": [2, 5]}
    assert data.tags[0] == ["cat", "black cat"]
    assert data.columns["year"] == [2001, 3, None]
    assert "1 images that several lines name" in data.DESCR
    table.write_text(table.read_text() + "a.PNG,cat,2002\n")
    with pytest.warns(
        UserWarning, match=r"lines 2, 5, 6 of .*'a\.PNG' and contradict.*'year'.*2001"
    ):
        assert load_tagged_folder(folder).columns["year"] == [2001, 3, None]


XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt>'
    '<rdf:li xml:lang="x-default">a title</rdf:li></rdf:Alt></dc:title><dc:subject><rdf:Bag>'
    "{}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
)


def packet(*words):
    return XMP.format("".join(f"<rdf:li>{word}</rdf:li>" for word in words)).encode()


def iptc(*values, charset=None):
    """The block in which JPEGs keep IPTC data, from the definition."""
    sets = [] if charset is None else [(1, 90, charset)]
    sets += [(2, 25, value) for value in values]
    data = b"".join(
        bytes([0x1C, record, number]) + len(v).to_bytes(2, "big") + v for record, number, v in sets
    )
    block = b"8BIM" + (0x0404).to_bytes(2, "big") + b"\0\0" + len(data).to_bytes(4, "big") + data
    return b"Photoshop 3.0\0" + block + b"\0" * (len(data) % 2)


def with_iptc(path, block):
    content = path.read_bytes()
    segment = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    path.write_bytes(content[:2] + segment + content[2:])


def test_keywords_within_pictures(tmp_path):
    """As exiftool and photo managers write them, in several formats."""
    grey = Image.new("RGB", (4, 4))
    grey.save(tmp_path / "a.jpg", xmp=packet("Dög", "red, white", " sea "))
    grey.save(tmp_path / "b.jpg")
    with_iptc(tmp_path / "b.jpg", iptc("Dög".encode(), b"cat", charset=b"\x1b%G"))
    grey.save(tmp_path / "c.jpg", xmp=packet("long " * 20, "same"))
    cut = ("long " * 20).encode()[:64]
    with_iptc(tmp_path / "c.jpg", iptc(b"same", b"only here", cut))
    grey.save(tmp_path / "d.webp", xmp=packet("cat &amp; dog"))
    grey.save(tmp_path / "e.tif", tiffinfo={700: packet("tiff")})
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet("png").decode())
    grey.save(tmp_path / "f.png", pnginfo=info)
    grey.save(tmp_path / "g.jpg")
    with_iptc(tmp_path / "g.jpg", iptc("Dög".encode("latin-1")))
    grey.save(tmp_path / "h.png")
    expected = [
        ["dög", "red, white", "sea"], ["dög", "cat"],
        [" ".join(["long"] * 20), "same", "only here"], ["cat & dog"], ["tiff"], ["png"], ["dög"],
        [],
    ]  # fmt: skip
    data = load_tagged_folder(tmp_path, "embedded")
    assert data.tags == expected
    assert data.columns == {}
    assert "keywords in the images" in data.DESCR
    assert load_tagged_folder(tmp_path).tags == expected  # with nothing else
    (tmp_path / "h.txt").write_text("beside")
    assert load_tagged_folder(tmp_path).tags[7] == ["beside"]
    assert load_tagged_folder(tmp_path).tags[0] == []


@pytest.mark.parametrize(
    "bad",
    [
        b"<x", b"\xff\xfe", packet("cat")[:200], b"",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + packet("&a;"),
    ],
)  # fmt: skip
def test_damaged_keywords_are_none(tmp_path, bad):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", xmp=packet("cat"))
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg", xmp=bad)
    Image.new("RGB", (4, 4)).save(tmp_path / "c.jpg")
    with_iptc(tmp_path / "c.jpg", iptc(b"x")[:-3])
    (tmp_path / "d.jpg").write_bytes(b"no picture")
    assert load_tagged_folder(tmp_path, "embedded").tags[:2] == [["cat"], []]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image has keywords"):
        load_tagged_folder(tmp_path, "embedded")
