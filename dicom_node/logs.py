"""Logging: one line per event, `key=value`, in UTC; no identity. The node's own numbers name series and jobs.

Libraries that would log what they receive (pynetdicom, pydicom, highdicom) are restricted to messages without content.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

log = logging.getLogger("dicom_node")

QUIET = {
    "pynetdicom": logging.CRITICAL,  # its errors quote peer data; what matters is logged by scp and scu in our words
    "pydicom": logging.CRITICAL,  # its warnings quote element values, which may be names
    "highdicom": logging.ERROR,
    "alembic": logging.WARNING,
    "PIL": logging.WARNING,
}


class KeyValueFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")


def fields(**values: object) -> str:
    """`job=4711 slices=34 took_s=6.1`; a value with spaces is quoted as in JSON, so that a line stays one line."""
    parts = []
    for key, value in values.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if not text or not text.isprintable() or any(c in text for c in ' "='):
            text = json.dumps(text)
        parts.append(f"{key}={text}")
    return " ".join(parts)


def trace(exc: BaseException) -> str:
    """Class and place of an unexpected error, without its text, in which libraries quote values that may be names."""
    frames = traceback.extract_tb(exc.__traceback__)[-4:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(exc).__name__} at {places or 'unknown'}"


def _note_the_end_of_a_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread is not None else None
        log.error("thread_ended %s", fields(part=name, error=trace(ended.exc_value)))


def configure(level: str, stream: TextIO | None = None) -> None:
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet_level in QUIET.items():
        logging.getLogger(name).setLevel(quiet_level)
    threading.excepthook = _note_the_end_of_a_thread  # else a traceback is printed, with values that libraries quote
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)  # pydicom warns through `warnings`, quoting values
