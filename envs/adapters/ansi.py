"""Terminal colours as plain marks: a drawing often tells the player from the board by them alone.

`F\\x1b[41mF\\x1b[0mH` becomes `F[F on red]H`.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\x1b\[([0-9;:?]*)([@-~])")
"""A control sequence: its parameters and what it does; `m` sets the style."""
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_STYLES = {
    "1": "bold", "2": "faint", "3": "italic", "4": "underlined", "5": "blinking", "7": "inverted",
    "9": "struck",
}  # fmt: skip
_ENDS = {"22": ("1", "2"), "23": ("3",), "24": ("4",), "25": ("5",), "27": ("7",), "29": ("9",)}
_TEXT, _GROUND = "text", "ground"


def marked(drawing: str) -> str:
    """`drawing` without control sequences; what they style stands in brackets with the style.

    A piece never goes over the end of a line. A blank that is styled is left out of its brackets:
    `[on yellow]`.
    """
    styles: dict[str, str] = {}
    pieces: list[tuple[str, str]] = []
    place = 0
    for found in _ESCAPE.finditer(drawing):
        pieces.append((drawing[place : found.start()], " ".join(styles.values())))
        place = found.end()
        if found[2] == "m":
            styles = _after(styles, found[1])
    pieces.append((drawing[place:], " ".join(styles.values())))
    return "".join(_bracketed(text, style) for text, style in pieces if text)


def _bracketed(text: str, style: str) -> str:
    if not style:
        return text
    lines = text.split("\n")
    return "\n".join(f"[{f'{line.strip()} {style}'.strip()}]" if line else "" for line in lines)


def _after(styles: dict[str, str], parameters: str) -> dict[str, str]:
    """The styles once a sequence has set some: what is set -> in words."""
    styles = dict(styles)
    codes = re.split("[;:]", parameters)
    while codes:
        code = codes.pop(0).lstrip("0")
        if not code:
            styles.clear()
        elif code in ("38", "48"):
            # A colour by its number, or by three shares of light.
            count = {"5": 2, "2": 4}.get(codes[0] if codes else "", 0)
            named = "colour " + " ".join(codes[1:count])
            styles[_TEXT if code == "38" else _GROUND] = named if code == "38" else f"on {named}"
            codes = codes[count:]
        elif code in _STYLES:
            styles[code] = _STYLES[code]
        elif code in _ENDS or code in ("39", "49"):
            for ended in _ENDS.get(code, (_TEXT if code == "39" else _GROUND,)):
                styles.pop(ended, None)
        elif len(code) > 1 and code[:-1] in ("3", "4", "9", "10") and code[-1] in "01234567":
            bright = "bright " if code[:-1] in ("9", "10") else ""
            ground = code[:-1] in ("4", "10")
            colour = bright + _COLOURS[int(code[-1])]
            styles[_GROUND if ground else _TEXT] = f"on {colour}" if ground else colour
    return styles
