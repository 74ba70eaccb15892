"""A page to draw on: text broken into lines, in the font that comes with Pillow, and the basic colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dicom_node.report.wording import plain

WIDTH = 1024
MARGIN = 24
TALLEST = 4000  # room for reasons of any length; the unused rest is cut off

INK, DIM, GROUND, PANEL = (238, 238, 238), (170, 170, 170), (14, 14, 16), (44, 44, 48)

Colour = tuple[int, int, int]


@dataclass
class Page:
    """A growing page: `y` is where the next block begins."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    y: int = 0

    def text(
        self, text: str, size: int, colour: Colour = INK, x: int = MARGIN, width: int = WIDTH - 2 * MARGIN
    ) -> None:
        """Draw lines broken at `width` pixels, one below the other."""
        for line in wrapped(text, size, width):
            self.draw.text((x, self.y), line, font=font(size), fill=colour)
            self.y += round(1.35 * size)


@lru_cache(maxsize=32)
def font(size: int) -> Any:
    """The font at a size in pixels; it is sure to contain ASCII."""
    return ImageFont.load_default(size)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, in ASCII; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
