"""All fifteen counts of the published communication table, from their formulas."""

import doctest

import pytest

from fedjax_rec import uplink
from fedjax_rec.errors import InputError
from fedjax_rec.uplink import published, published_count

# n items, M codewords a level, and the table's counts. d = 512 and L = 3 throughout.
TABLE = {
    "ML-100K": (1682, 256, {"fedmf": 861_184, "fedcia": 2_829_124, "rqfedrec": 796_524}),
    "ML-1M": (3706, 512, {"fedmf": 1_897_472, "fedcia": 13_734_436, "rqfedrec": 1_595_100}),
    "Steam": (5237, 512, {"fedmf": 2_681_344, "fedcia": 27_426_169, "rqfedrec": 1_604_286}),
    "Toys": (16454, 1024, {"fedmf": 8_424_448, "fedcia": 270_734_116, "rqfedrec": 3_244_452}),
    "Book": (9332, 512, {"fedmf": 4_777_984, "fedcia": 87_086_224, "rqfedrec": 1_628_856}),
}


@pytest.mark.parametrize("method", ["fedmf", "fedcia", "rqfedrec"])
@pytest.mark.parametrize("dataset", TABLE)
def test_the_published_table(dataset: str, method) -> None:
    items, codewords, counts = TABLE[dataset]
    found = published_count(method, items=items, dim=512, levels=3, codewords=codewords)
    assert found == counts[method]


def test_what_our_bytes_count_otherwise() -> None:
    """ML-100K by the wire's formats: a triangle, and codes of eight bits."""
    numbers = published_count("fedcia", items=1682)
    assert uplink.triangle(1682).values == (numbers + 1682) / 2

    numbers = published_count("rqfedrec", items=1682, dim=512, levels=3, codewords=256)
    codebook, codes = 3 * 256 * 512, 1682 * 3
    assert numbers == 2 * (codebook + codes)
    assert uplink.labels(codes, 256).bytes == codes  # a quarter of as many floats


@pytest.mark.parametrize(
    ("method", "numbers", "message"),
    [
        ("fedmf", {"items": 3}, "published count of fedmf needs dim of 1 or more: None"),
        ("fedmf", {"items": 0, "dim": 2}, "needs items of 1 or more: 0"),
        ("rqfedrec", {"items": 3, "dim": 2, "codewords": 4}, "needs levels"),
        ("rqfedrec", {"items": 3, "dim": 2, "levels": 2, "codewords": -1}, "needs codewords"),
        ("pfedrec", {"items": 3}, "has no 'pfedrec'"),
    ],
)
def test_what_cannot_be_counted(method, numbers, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        published_count(method, **numbers)
    assert "\n" not in str(error.value)


def test_examples() -> None:
    result = doctest.testmod(published)
    assert result.attempted > 0
    assert result.failed == 0
