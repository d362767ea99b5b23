"""The datasets that have a name: what each is, under which licence, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["KNOWN_DATASETS", "KnownDataset"]


@dataclass(frozen=True)
class KnownDataset:
    """One dataset of the registry.

    Attributes:
      name: what users call it.
      title: what it is, in one line.
      users, items, interactions: its size.
      splits: which ``--split`` it can take.
      licence: one line, shown before a download.
      homepage: where it is described.
      path: its file under ``$FEDJAX_REC_DATA``.
      file_sha256: checksum of that file where one file is *the* file, else None.
      titles: a title file under ``$FEDJAX_REC_DATA``, where it does not lie beside ``path``.
      first_id: for ``.npz`` files, the id of item 0 and user 0.
      urls: mirrors of the original archive; () where there is none to download.
      archive_sha256: its checksum.
      member: the file of interactions inside the archive.
    """

    name: str
    title: str
    users: int
    items: int
    interactions: int
    splits: tuple[str, ...]
    licence: str
    homepage: str
    path: str
    file_sha256: str | None = None
    titles: str | None = None
    first_id: int = 0
    urls: tuple[str, ...] = ()
    archive_sha256: str | None = None
    member: str = ""


_MOVIELENS = (
    "MovieLens licence: research use, no redistribution, no commercial use without permission; "
    "cite Harper and Konstan, ACM TiiS 5(4), 2015"
)
_ML_100K_PAGE = "https://grouplens.org/datasets/movielens/100k/"
_ML_1M_PAGE = "https://grouplens.org/datasets/movielens/1m/"

_ALL = (
    KnownDataset(
        name="ml-100k",
        title="MovieLens-100K: film ratings with times, in the order of u.data",
        users=943,
        items=1682,
        interactions=100_000,
        splits=("loo", "ratio"),
        licence=_MOVIELENS,
        homepage=_ML_100K_PAGE,
        path="ml-100k/u.data",
        file_sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        urls=("https://files.grouplens.org/datasets/movielens/ml-100k.zip",),
        archive_sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        member="ml-100k/u.data",
    ),
    KnownDataset(
        name="ml-1m",
        title="MovieLens-1M: film ratings with times",
        users=6040,
        items=3706,
        interactions=1_000_209,
        splits=("loo", "ratio"),
        licence=_MOVIELENS,
        homepage=_ML_1M_PAGE,
        path="ml-1m/ratings.dat",
        urls=("https://files.grouplens.org/datasets/movielens/ml-1m.zip",),
        archive_sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        member="ml-1m/ratings.dat",
    ),
    KnownDataset(
        name="amazon",
        title="An Amazon category as the PFedRec release ships it: ratings with times",
        users=8072,
        items=11_830,
        interactions=63_836,
        splits=("loo", "ratio"),
        licence="no licence is stated with it; from the Amazon reviews of the McAuley Lab, for "
        "research",
        homepage="https://github.com/Zhangcx19/IJCAI-23-PFedRec",
        path="amazon/ratings.dat",
        file_sha256="a1292e4a4dba6c37be6ae5dc83d4404af96bf3eace4c8954e2f4e8360a3cdd76",
    ),
    KnownDataset(
        name="lastfm-2k",
        title="HetRec 2011 Last.fm: listening counts of artists, no times",
        users=1892,
        items=17_632,
        interactions=92_834,
        splits=("ratio",),
        licence="HetRec 2011: non-commercial use; cite Cantador, Brusilovsky and Kuflik, RecSys "
        "2011, and Last.fm",
        homepage="https://grouplens.org/datasets/hetrec-2011/",
        path="lastfm-2k/user_artists.dat",
        urls=("https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",),
        archive_sha256="6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
        member="user_artists.dat",
    ),
    KnownDataset(
        name="ml-100k-ratio",
        title="MovieLens-100K in FedCIA's 72/8/20 split, over 100 silos",
        users=943,
        items=1682,
        interactions=100_000,
        splits=("ratio",),
        licence=_MOVIELENS,
        homepage=_ML_100K_PAGE,
        path="ml-100k-ratio/clients_100.npz",
        file_sha256="051b878abf12b054e1e1ad1691508339d010ca4e800b42d8213a6066a754d54e",
        titles="ml-100k/ml-100k.item",
        first_id=1,
    ),
    KnownDataset(
        name="ml-100k-ratio-943",
        title="The same split, one client a user",
        users=943,
        items=1682,
        interactions=100_000,
        splits=("ratio",),
        licence=_MOVIELENS,
        homepage=_ML_100K_PAGE,
        path="ml-100k-ratio/clients_943.npz",
        file_sha256="c492953da021f2fbba485cc7fbaee539b6e4a11ed426a265d7d4d64ec8596efc",
        titles="ml-100k/ml-100k.item",
        first_id=1,
    ),
    KnownDataset(
        name="ml-1m-ratio",
        title="MovieLens-1M in FedCIA's 72/8/20 split, over 100 silos; unrated items keep a column",
        users=6040,
        items=3952,
        interactions=1_000_209,
        splits=("ratio",),
        licence=_MOVIELENS,
        homepage=_ML_1M_PAGE,
        path="ml-1m-ratio/clients_100.npz",
        file_sha256="19922ef5472d6ecedc24a743c3830e6b5e6429efd9201085961e87c55ca33d91",
        titles="ml-1m/movies.dat",
        first_id=1,
    ),
)

KNOWN_DATASETS: Mapping[str, KnownDataset] = MappingProxyType({known.name: known for known in _ALL})
"""Every known dataset by its name."""
