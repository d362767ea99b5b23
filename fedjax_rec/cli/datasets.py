"""``fedjax-rec data``: list, inspect, download and make datasets."""

from __future__ import annotations

import dataclasses

from fedjax_rec.cli.options import DataGet, DataInfo, DataSynth
from fedjax_rec.cli.values import keywords

__all__ = ["get", "info", "list_known", "synth"]


def list_known() -> None:
    """Prints the datasets that have a name."""
    from rich.console import Console
    from rich.table import Table

    from fedjax_rec.data import KNOWN_DATASETS

    table = Table("name", "users", "items", "interactions", "splits", "what")
    table.columns[0].no_wrap = True
    table.add_row(
        "synthetic", *"···", "loo, ratio", "planted clusters and tastes, made on the spot"
    )
    for known in KNOWN_DATASETS.values():
        counts = (f"{n:,}" for n in (known.users, known.items, known.interactions))
        table.add_row(known.name, *counts, ", ".join(known.splits), known.title)
    Console().print(table)
    print("or the path of a file: see fedjax-rec data info --help")


def info(command: DataInfo) -> None:
    """Prints what a dataset is, and what its reader noticed."""
    import numpy as np

    from fedjax_rec.data import KNOWN_DATASETS, load_dataset

    known = KNOWN_DATASETS.get(command.name)
    if known is not None:
        print(f"{known.name}: {known.title}\nlicence: {known.licence}\nfrom: {known.homepage}")
    dataset = load_dataset(command.name, **keywords(command.data_options))
    counts = np.bincount(dataset.user, minlength=dataset.num_users)
    density = dataset.num_interactions / (dataset.num_users * dataset.num_items)
    print(
        f"users: {dataset.num_users:,}\n"
        f"items: {dataset.num_items:,}\n"
        f"interactions: {dataset.num_interactions:,} (density {100 * density:.2f} %)\n"
        f"interactions a user: {counts.min()} to {counts.max()}, median {np.median(counts):.0f}\n"
        f"times: {'yes' if dataset.timestamp is not None else 'no (use --split ratio)'}\n"
        f"titles: {'yes' if dataset.item_titles is not None else 'no'}\n"
        f"genres: {'yes' if dataset.item_genres is not None else 'no'}\n"
        f"own split: {'yes' if dataset.split is not None else 'no'}"
    )
    for note in dataset.notes:
        print(f"note: {note}")


def get(command: DataGet) -> None:
    """Downloads a known dataset and prints where it lies."""
    from fedjax_rec.data import locate

    path, notes = locate(command.name)
    for note in notes:
        print(f"note: {note}")
    print(path)


def synth(command: DataSynth) -> None:
    """Writes a synthetic dataset and prints its files."""
    from fedjax_rec.data import synthetic, write_recbole

    options = {k: v for k, v in dataclasses.asdict(command).items() if k != "out"}
    for path in write_recbole(synthetic(**options), command.out):
        print(path)
