"""Keywords that photo managers write into pictures: IPTC keywords and XMP dc:subject."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

__all__ = ["keywords_of"]

_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_CHARSET, _KEYWORDS = (1, 90), (2, 25)  # record and data set of IPTC
_UTF8 = b"\x1b%G"  # how ISO 2022 says that text is UTF-8
_LONGEST = 64  # bytes of a keyword in IPTC; what writes it cuts longer ones
_XMP_OF_TIFF = 700


def keywords_of(path: Path) -> list[str]:
    """Return the keywords within a picture, [] where there are none or it can't be read."""
    # Heavy, and needed for pictures alone.
    from PIL import Image

    try:
        with Image.open(path) as picture:
            found, own = _of_xmp(picture), _of_iptc(picture)
    except Exception:  # damaged in one of many ways; whoever reads the pixels will say so
        return []
    # Most programs write both: IPTC's may be the same, cut short.
    found += [
        word
        for word in own
        if word not in found
        and not (len(word.encode()) >= _LONGEST - 3 and any(one.startswith(word) for one in found))
    ]
    return [word for word in (" ".join(word.split()) for word in found) if word]


def _of_iptc(picture: Any) -> list[str]:
    from PIL import IptcImagePlugin

    known = IptcImagePlugin.getiptcinfo(picture) or {}
    values = known.get(_KEYWORDS, [])
    # One keyword is not in a list.
    values = [values] if isinstance(values, bytes) else values
    is_utf8 = known.get(_CHARSET) == _UTF8
    return [_text(value, is_utf8) for value in values]


def _text(value: bytes, is_utf8: bool) -> str:
    """Return a keyword as text: in UTF-8 where it is that, else in Latin-1, as older files are."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        # One that was cut within a letter is UTF-8 all the same.
        return value.decode("utf-8", "ignore") if is_utf8 else value.decode("latin-1")


def _of_xmp(picture: Any) -> list[str]:
    raw = _packet(picture).strip(b"\0 \r\n\t")
    # Entities have no use in it, but to fill the memory.
    if not raw or re.search(rb"<!\s*(DOCTYPE|ENTITY)", raw, re.IGNORECASE):
        return []
    try:
        root = ElementTree.fromstring(raw)
    except ElementTree.ParseError:
        return []
    items = (item for subject in root.iter(f"{_DC}subject") for item in subject.iter(f"{_RDF}li"))
    return [item.text for item in items if item.text]


def _packet(picture: Any) -> bytes:
    """Return the XMP of a picture, b"" where it has none; formats keep it in several places."""
    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    if packet is None and hasattr(picture, "tag_v2"):
        packet = picture.tag_v2.get(_XMP_OF_TIFF)
    return packet.encode() if isinstance(packet, str) else bytes(packet or b"")
