"""Slow, obviously right versions of every formula, as loops; they import nothing of skwsdhq."""
