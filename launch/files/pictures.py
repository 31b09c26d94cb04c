"""Draws a picture into a file. matplotlib is imported only then; whether it is there is asked by `output_files`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError


def save_picture(draw: Callable[[Any], Any], path: Path) -> None:
    """Write the figure that `draw` makes with pyplot.

    Raises:
        UsageError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Names are others' words: `$x$` in one is no formula, and a character that the font lacks is drawn as a box.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = draw(pyplot)
        try:
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with --plot.") from error
        finally:
            pyplot.close(figure)
