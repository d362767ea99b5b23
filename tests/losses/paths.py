"""The ways through the pairwise pass, forced on catalogues small enough to test."""

from typing import NamedTuple

from fedjax_rec import tiles
from fedjax_rec.losses import pairwise

__all__ = ["PATHS", "Path", "force"]


class Path(NamedTuple):
    """Rows of a tile, entries kept at most, and the function that then does the work."""

    tile_rows: int
    keep: int
    function: str


# Of 11 items: all in one tile; in 3 tiles, the last one short; the same computed twice; in tiles
# of one item.
PATHS = {
    "one tile": Path(640, 4096**2, "_kept"),
    "several tiles": Path(4, 4096**2, "_kept"),
    "streamed tiles": Path(4, 0, "_streamed"),
    "streamed single items": Path(1, 0, "_streamed"),
    "streamed at once": Path(640, 0, "_streamed"),
}


def force(monkeypatch, name: str) -> set[str]:
    """Makes the pass go this way; returns a set that collects the ways it went."""
    path = PATHS[name]
    monkeypatch.setattr(tiles, "_TILE_ROWS", path.tile_rows)
    monkeypatch.setattr(pairwise, "_KEEP_ENTRIES", path.keep)
    taken: set[str] = set()
    for function in ("_kept", "_streamed"):
        monkeypatch.setattr(pairwise, function, _spy(taken, function))
    return taken


def _spy(taken, name):
    function = getattr(pairwise, name)

    def called(*args):
        taken.add(name)
        return function(*args)

    return called
