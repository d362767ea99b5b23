"""A specification: what it may hold, and what it is refused for."""

import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.sweep.draws import Distribution
from fedjax_rec.sweep.spec import read_spec
from tests.sweep.toy import write_spec

WHOLE = """
method = ["pfedrec", "fedcia-gf"]
local-epochs = 2
clients = [100, 1000]
data_options = {items = 500}

[grid]
lr = [0.05, 1]
data_options.interactions_per_user = [8.0]

[random]
trials = 3
seed = 7
dim = {choice = [16, 32]}
data_options = {taste = {uniform = [0.1, 0.5]}}

[fedcia-gf]
widths = [16, 32]
grid = {rank = [8, 16]}
"""
REFUSED = {
    "syntax": ("method = \n", "is no TOML: Invalid value (at line 1"),
    "no method": ("lr = 0.1", "no method: write, for instance"),
    "method": ('method = "pfedrek"', "'pfedrek' is unknown (did you mean pfedrec?)"),
    "methods": ("method = []", "method = [] must be a name, or a list of names"),
    "method twice": ('method = ["local", "local"]', "method lists 'local' twice"),
    "date": ('method = "local"\nlr = 2020-01-01', "lr = 2020-01-01 is no finite number, text"),
    "nan": ('method = "local"\nlr = nan', "lr = nan is no finite number"),
    "table": ('method = "local"\n[girds]\nlr = [1]', "is a table (did you mean grid?)"),
    "grid": ('method = "local"\ngrid = [1]', "grid must be a table: write [grid]"),
    "no list": ('method = "local"\n[grid]\nlr = 1', "[grid] lr = 1 must be a list of values"),
    "no values": ('method = "local"\n[grid]\nlr = []', "[grid] lr = [] must be a list of values"),
    "twice": ('method = "local"\n[grid]\nlr = [1, 1.0]', "[grid] lr lists 1.0 twice"),
    "both": ('method = "local"\nlr = 1\n[grid]\nlr = [2]', "lr stands in [grid] and at the top"),
    "clients": (
        'method = "local"\nclients = [1]\n[grid]\nclients = [2]',
        "clients is a list at the top and in [grid]",
    ),
    "names": ('method = "local"\nl-r = 1\nl_r = 2', "l_r stands there twice, with - and with _"),
    "data options": ('method = "local"\ndata_options = ["users=3"]', "data_options must be a tab"),
    "draws": ('method = "local"\n[random]\nlr = {choice = [1]}', "needs trials = N"),
    "no draws": ('method = "local"\n[random]\ntrials = 3', "[random] draws nothing"),
    "seed": ('method = "local"\n[random]\ntrials = 3\nseed = -1', "seed=-1 is no seed"),
    "seeds": (
        'method = "local"\n[random]\ntrials = 3\nseed = {choice = [1]}',
        "list the runs' seeds in [grid]",
    ),
    "random too": (
        'method = "local"\nlr = 1\n[random]\ntrials = 3\nlr = {choice = [1]}',
        "lr stands in [random] and elsewhere",
    ),
    "not swept": ('method = "local"\n[fedmf]\nlr = 1', "[fedmf] is a table of a method that is n"),
    "varies": (
        'method = "local"\n[grid]\nlr = [1]\n[local]\nlr = 1',
        "lr varies for all methods and stands in [local] too",
    ),
}


def test_all_that_a_specification_may_hold(tmp_path):
    spec = read_spec(write_spec(tmp_path, WHOLE))
    assert spec.methods == ("pfedrec", "fedcia-gf")
    assert spec.common.fixed == {"local_epochs": 2, "data_options.items": 500}
    assert spec.common.grid == {
        "lr": (0.05, 1),
        "data_options.interactions_per_user": (8.0,),
        "clients": (100, 1000),
    }
    assert (spec.draws, spec.seed) == (3, 7)
    assert spec.random == {
        "dim": Distribution("choice", (16, 32)),
        "data_options.taste": Distribution("uniform", (0.1, 0.5)),
    }
    own = spec.own["fedcia-gf"]
    assert (own.fixed, own.grid) == ({"widths": (16, 32)}, {"rank": (8, 16)})
    assert spec.text == WHOLE


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    text, told = REFUSED[name]
    path = write_spec(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_spec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_spec(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_spec(tmp_path / "binary.toml")
