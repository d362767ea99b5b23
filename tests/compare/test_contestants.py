import pytest

from fedjax_rec.compare.contestants import Contestant, read_contestants
from fedjax_rec.errors import InputError
from tests.cli.commands import refused

WORDS = "pfedrec, alignfedrec@leak-free,fedmf:dim=64:lr=0.1,fedmf:item-lr-scale=2:label=scaled"


def test_words():
    assert read_contestants(WORDS) == (
        Contestant("pfedrec", "pfedrec", {}),
        Contestant("alignfedrec@leak-free", "alignfedrec", {"preset": "leak-free"}),
        Contestant("fedmf dim=64 lr=0.1", "fedmf", {"dim": "64", "lr": "0.1"}),
        Contestant("scaled", "fedmf", {"item_lr_scale": "2"}),
    )


def test_truth_values_are_such():
    (found,) = read_contestants("alignfedrec:gsa=false")
    assert found.options == {"gsa": False}
    assert found.label == "alignfedrec gsa=false"


def test_fewer_seeds(tmp_path):
    (found,) = read_contestants("pfedrec:seeds=2:dim=4")
    assert found == Contestant("pfedrec dim=4", "pfedrec", {"dim": "4"}, seeds=2)
    assert found.seeds_of([5, 6, 7]) == [5, 6]
    assert Contestant("a", "pfedrec", {}).seeds_of([5, 6, 7]) == [5, 6, 7]
    path = tmp_path / "methods.toml"
    path.write_text("[pfedrec]\nseeds = 1\n")
    assert read_contestants(str(path)) == (Contestant("pfedrec", "pfedrec", {}, seeds=1),)


def test_a_file_of_tables(tmp_path):
    path = tmp_path / "methods.toml"
    path.write_text(
        '[pfedrec]\n["a, b: c"]\nmethod = "fedmf"\nitem-lr-scale = 2.5\n'
        '[aligned]\nmethod = "alignfedrec"\npreset = "leak-free"\ngsa = true\n'
    )
    assert read_contestants(str(path)) == (
        Contestant("pfedrec", "pfedrec", {}),
        Contestant("a, b: c", "fedmf", {"item_lr_scale": 2.5}),
        Contestant("aligned", "alignfedrec", {"preset": "leak-free", "gsa": True}),
    )


BAD = {
    "nothing": ("", "names nothing: give names such as"),
    "commas": (" , ", "names nothing: give names such as"),
    "a gap": ("local,,fedmf", "empty place between two commas"),
    "method": ("local,pfedrek", "method='pfedrek' is unknown (did you mean pfedrec?)"),
    "preset": ("alignfedrec@leek-free", "preset='leek-free' is unknown (did you mean leak-free?)"),
    "no presets": ("local@best", "local has no presets"),
    "twice": ("local,fedmf,local", "'local' is there twice: give one of them another label"),
    "label": ("local,fedmf:label=local", "'local' is there twice"),
    "form": ("fedmf:dim", "'dim' is not of the form OPTION=VALUE"),
    "option twice": ("fedmf:lr=1:lr=2", "has lr twice"),
    "seed": ("fedmf:seed=3", "the same for all that are compared; give it once, as --seeds"),
    "seeds": ("fedmf:seeds=0", "seeds of fedmf:seeds=0 is 0: give how many of the comparison's"),
    "no number": ("fedmf:seeds=two", "seeds of fedmf:seeds=two is two: give how many"),
    "data": ("fedmf:data=ml-1m", "give it once, as --data"),
    "no file": ("no/such.toml", "no/such.toml: cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared(name):
    text, told = BAD[name]
    with pytest.raises(InputError) as error:
        read_contestants(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


FILES = {
    "no TOML": ("[fedmf", "is no TOML: "),
    "empty": ("", "names nothing to compare"),
    "outside": ("rounds = 3\n[fedmf]\n", "rounds is in no table: options of all belong to the"),
    "a table": ("[fedmf.grid]\nlr = 1\n", "grid in [fedmf] is no number, text, true or false"),
    "a list": ("[fedmf]\ndata_options = {users = 3}\n", "data_options in [fedmf] is no number"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(name, tmp_path):
    text, told = FILES[name]
    path = tmp_path / "methods.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_contestants(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)


COMMANDS = {
    "option": (("fedmf:dimm=3",), "dimm is no option of fedjax-rec run fedmf (did you mean dim?)"),
    "value": (("fedmf:dim=x",), "--dim: 'x' is not a whole number"),
    "out": (("fedmf:out=x",), "out is set by the sweep"),
    "the same run": (("fedmf,fedmf:dim=32",), "'fedmf' and 'fedmf dim=32' are the same run"),
    "seeds": (("local", "--seeds", "x"), "--seeds 'x' is neither a number of seeds"),
    "no seeds": (("local", "--seeds", "0"), "--seeds '0' is neither a number of seeds"),
    "seeds twice": (("local", "--seeds", "1,1"), "--seeds '1,1' is neither"),
    "jobs": (("local", "--jobs", "0"), "--jobs 0 must be 1 or more"),
    "protocol": (("local", "--protocol", "none"), "'none' for argument '--protocol'"),
    "data": (("local", "--data", "ml-100"), "'ml-100' is no dataset known here"),
    "data option": (("local", "--data-options", "users"), "'users' is not of the form name=value"),
    "users": (("local", "--clients", "401"), "clients = 401 is more than the 400 users"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_cannot_be_run(name, tmp_path, capfd):
    (methods, *options), told = COMMANDS[name]
    out = tmp_path / "out"
    assert told in refused(capfd, "compare", "--methods", methods, "--out", out, *options)
    assert not out.exists()


def test_methods_are_required(capfd):
    assert "--methods" in refused(capfd, "compare")
