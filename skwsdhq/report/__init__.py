"""A page to hand on: what a model has learned of some images, and how it finds them.

One file, that needs neither a network nor this library where it is opened. It is made by Jinja2,
which ``pip install skwsdhq[report]`` brings.
"""

from ..utils.public import named_here
from ._report import retrieval_report

__all__ = ["retrieval_report"]

named_here(__name__)
