"""What several rooms of training may find wrong."""

from __future__ import annotations


class UnusableData(Exception):
    """Bad data, before anything was trained; the text names the file, row and column, and says what to do."""
