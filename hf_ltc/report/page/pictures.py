"""Pictures of the same for cards and slides: rows kept and dropped, the data map, the losses."""

import base64
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from ...utils import files
from ...utils.errors import InputError, LTCWarning, one_line
from .contents import Contents
from .previews import clipped
from .rows import BUDGETS, ClassRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, MAP, LOSSES = "rows_kept_and_dropped.png", "data_map.png", "losses.png"
# By which a picture is known as one that may be replaced, as text in the file.
_SOFTWARE = "hf-ltc"
_CLASSES, _IMAGES, _CELL = 8, 4, 96
_BUDGET = BUDGETS.index(0.1)
_NAME = 20
_COLORS = {"kept": "#2a7fb8", "label issues": "#c8481c", "conflicting": "#a5428f"}
_TITLES = {"kept": "kept at 10%", "label issues": "label issues", "conflicting": "conflicting"}


def check_pictures(folder: Path) -> None:
    """Checks that the pictures may be written into a folder: none is there, or those of an earlier page.

    Raises:
        InputError: for any other file of such a name.
    """
    for file in (folder / name for name in (ROWS, MAP, LOSSES)):
        if file.exists() and not _is_ours(file):
            raise InputError(
                f"`pictures` would replace {str(file)!r}, which is no picture of a report: give another folder, or "
                "delete it"
            )


def _is_ours(file: Path) -> bool:
    try:
        with PIL.Image.open(file) as image:
            return image.info.get("Software") == _SOFTWARE
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return False


def write_pictures(contents: Contents, folder: Path) -> list[Path]:
    """Writes the pictures, each whole or not at all; of texts there is none of rows.

    Args:
        contents ([`Contents`]): What the page shows.
        folder (`Path`): Where they go.

    Returns:
        `list[Path]`: those that were written.

    Warns:
        LTCWarning: where one cannot be drawn, which takes nothing from the page.
    """
    # It takes a second, which commands that draw nothing need not wait for.
    from matplotlib import rc_context

    written = []
    drawings: dict[str, Callable[[Contents], Figure]] = {MAP: _map, LOSSES: _losses}
    if contents.previews.kind == "image" and contents.previews.values:
        drawings = {ROWS: _rows, **drawings}
    for name, draw in drawings.items():
        try:
            drawn = io.BytesIO()
            # Names are texts and never mathematics, in any script, which the fonts at hand are not.
            with warnings.catch_warnings(), rc_context({"text.parse_math": False, "text.usetex": False}):
                warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
                draw(contents).savefig(drawn, format="png", dpi=150, metadata={"Software": _SOFTWARE})
        # Whatever ails a library that draws, its settings and its fonts.
        except Exception as error:
            warnings.warn(f"no picture {str(folder / name)!r}: {one_line(error)}", LTCWarning, stacklevel=3)
            continue
        with files.replacing(folder / name) as temporary:
            temporary.write_bytes(drawn.getvalue())
        written.append(folder / name)
    return written


def _rows(contents: Contents) -> "Figure":
    """A line a class: its first kept, first dropped, last and conflicting rows."""
    from matplotlib.figure import Figure

    chosen = contents.classes[:_CLASSES]
    groups: list[tuple[str, Callable[[ClassRows], np.ndarray]]] = [
        ("first kept", lambda rows: rows.first),
        ("first dropped at 10%", lambda rows: rows.dropped[_BUDGET]),
        ("last of all", lambda rows: rows.worst),
        ("conflicting", lambda rows: rows.conflicting),
    ]
    shown = [(title, [of(rows)[:_IMAGES].tolist() for rows in chosen]) for title, of in groups]
    shown = [(title, lines) for title, lines in shown if any(lines)]
    widths = [_CELL * max(map(len, lines)) for _, lines in shown]
    lefts = np.cumsum([0, *(width + _CELL // 3 for width in widths)])
    sheet = PIL.Image.new("RGB", (int(lefts[-1]) - _CELL // 3, len(chosen) * _CELL), "white")
    for left, (_, lines) in zip(lefts.tolist(), shown):
        for line, positions in enumerate(lines):
            for number, position in enumerate(positions):
                file = contents.previews.values.get(int(np.searchsorted(contents.shown, position)))
                if file is not None:
                    _paste(sheet, file, (left + number * _CELL, line * _CELL))
    figure = Figure(figsize=(1.6 + sheet.width / 150, 0.6 + sheet.height / 150), layout="constrained")
    panel = figure.subplots()
    panel.imshow(np.asarray(sheet), interpolation="nearest")
    panel.set_xticks([left + width / 2 for left, width in zip(lefts, widths)], [title for title, _ in shown])
    names = [clipped(" ".join(contents.names[rows.number].split()), _NAME) for rows in chosen]
    panel.set_yticks([(line + 0.5) * _CELL for line in range(len(chosen))], names)
    panel.tick_params(length=0, labelsize=11)
    panel.xaxis.tick_top()
    panel.spines[:].set_visible(False)
    return figure


def _paste(sheet: PIL.Image.Image, file: str, place: tuple[int, int]) -> None:
    image = PIL.Image.open(io.BytesIO(base64.b64decode(file))).convert("RGB")
    side = _CELL - 4
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, PIL.Image.Resampling.BICUBIC)
    sheet.paste(image, (place[0] + (_CELL - size[0]) // 2, place[1] + (_CELL - size[1]) // 2))


def _map(contents: Contents) -> "Figure":
    from matplotlib.figure import Figure

    ranked, points = contents.ranked, contents.points
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel = figure.subplots()
    drawn = panel.scatter(
        ranked.variability[points], ranked.probability[points], c=ranked.scores[points], s=7, alpha=0.8, linewidths=0
    )
    figure.colorbar(drawn, ax=panel, label="score")
    panel.set(xlabel="variability of the label's probability", ylabel="mean probability of the label", ylim=(-0.03, 1))
    return _plain(figure, panel)


def _losses(contents: Contents) -> "Figure":
    from matplotlib.figure import Figure

    lines, grid = contents.losses, contents.grid
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.fill_between(grid, lines.low, lines.high, color="0.5", alpha=0.15, linewidth=0)
    panel.plot(grid, lines.mean, color="0.45", label="all rows")
    for name, values in lines.parts.items():
        panel.plot(grid, values, color=_COLORS[name], label=_TITLES[name])
    panel.plot(grid, contents.validation, color="black", linestyle="--", label="validation")
    panel.set(xlabel="epoch", ylabel="loss", xlim=(grid[0], grid[-1]))
    # Losses of a loop of one's own may be negative.
    if panel.dataLim.y0 >= 0:
        panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=9)
    return _plain(figure, panel)


def _plain(figure: "Figure", panel: Any) -> "Figure":
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    return figure
