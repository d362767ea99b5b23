"""What pages have in common: templates rendered, figures embedded, files written whole."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedjax_rec.errors import InputError
from fedjax_rec.reports.figures import Picture

__all__ = ["embedded", "render", "write_with_pictures"]


def render(template: str, **context: Any) -> str:
    """A page from one of the templates of this folder.

    Labels and titles come from users and datasets: everything is escaped, and a missing variable
    is an error instead of an empty place on the page.

    Args:
      template: its file name.
      **context: its variables.
    """
    environment = Environment(
        loader=PackageLoader("fedjax_rec.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def embedded(pictures: Sequence[Picture]) -> list[dict[str, str]]:
    """Figures as the template ``figures.html.j2`` takes them, their PNGs within."""
    return [
        {
            "title": picture.title,
            "caption": picture.caption,
            "light": _data_uri(picture.light),
            "dark": _data_uri(picture.dark),
        }
        for picture in pictures
    ]


def write_with_pictures(target: Path, page: str, pictures: Sequence[Picture]) -> None:
    """Writes a page, and beside it its figures as ``<stem>-<figure>.png``.

    Every file appears whole or not at all, the page last.

    Args:
      target: the HTML file.
      page: its content.
      pictures: its figures.

    Raises:
      InputError: a place that cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            _write_atomically(target.with_name(f"{target.stem}-{picture.name}.png"), picture.light)
        _write_atomically(target, page.encode("utf-8"))
    except OSError as error:
        raise InputError(
            f"{target}: the report cannot be written ({error.strerror or error}); "
            "choose another place or make room"
        ) from None


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _write_atomically(file: Path, content: bytes) -> None:
    # In the same folder, or the replacement would not be atomic.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
