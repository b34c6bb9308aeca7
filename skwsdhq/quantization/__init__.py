"""Codes of images: the quantizer, and codes that follow a training."""
