"""The saved file by its description alone: header, seal, arrays."""

import copy
import hashlib
import json
import struct


def take_apart(content):
    """Header as a dict, and the bytes of the arrays."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(header, data):
    """The file of a header and arrays, with its length and seal made right."""
    header = json.loads(json.dumps(header))
    header["__metadata__"]["sha256"] = "0" * 64
    header["__metadata__"]["nbytes"] = "0" * 20
    text = json.dumps(header, separators=(",", ":")).encode()
    return seal(text, data)


def seal(text, data):
    """The same of a header that is text already, with zeros for length and seal."""
    total = 8 + len(text) + len(data)
    text = text.replace(b'"nbytes":"' + b"0" * 20, b'"nbytes":"' + str(total).zfill(20).encode(), 1)
    digest = hashlib.sha256(struct.pack("<Q", len(text)) + text + data).hexdigest()
    text = text.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode(), 1)
    return struct.pack("<Q", len(text)) + text + data


def leaves(value, path=()):
    """Paths to everything within JSON."""
    yield path
    items = []
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield from leaves(item, (*path, key))


def replaced(value, path, new):
    """JSON with another value at a path."""
    value = copy.deepcopy(value)
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value
