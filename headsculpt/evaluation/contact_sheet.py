"""Many heads on one picture: a few views of each, with its words below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
FONT_SIZE = 13
LINE = 17


def contact_sheet(
    entries: Sequence[tuple[str, Sequence[Image.Image]]],
    path: str | Path,
    *,
    cell: int = 144,
    columns: int = 2,
) -> Path:
    """Writes a PNG with ``columns`` entries side by side.

    Args:
        entries: (text, pictures) of each head; all with about equally many pictures.
        path: of the PNG; its folder is made.
        cell: pixels of a view, both ways.
        columns: entries in a row.

    Returns:
        the path.

    Raises:
        ValueError: no entry.
    """
    if not entries:
        raise ValueError("a contact sheet needs at least one entry")
    views = max(1, *(len(pictures) for _, pictures in entries))
    width = views * cell
    characters = max(10, width // 7)
    lines = [textwrap.wrap(text, characters) or [""] for text, _ in entries]
    height = cell + LINE * max(map(len, lines)) + 4
    rows = -(-len(entries) // columns)
    size = (MARGIN + columns * (width + MARGIN), MARGIN + rows * (height + MARGIN))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for index, (_, pictures) in enumerate(entries):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)
        for place, picture in enumerate(pictures):
            view = picture.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(view, (left + place * cell, top))
        for number, line in enumerate(lines[index]):
            draw.text((left + 2, top + cell + 2 + LINE * number), line, fill=(30, 30, 30), font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
