"""Expansion: how many trials, which, and what they are called."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.cli import parse_run
from fedjax_rec.errors import InputError
from fedjax_rec.sweep.data_check import check_data
from fedjax_rec.sweep.draws import Distribution
from fedjax_rec.sweep.spec import Settings, Spec, read_spec
from fedjax_rec.sweep.trials import Point, expand, make_trials
from tests.sweep.toy import parse_toy, write_spec

GRIDS = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=3, unique=True),
        "seed": st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        "clients": st.lists(st.integers(1, 10**6), min_size=1, max_size=3, unique=True),
    },
)
METHODS = st.lists(st.sampled_from(["pfedrec", "local"]), min_size=1, max_size=2, unique=True)


def spec_of(methods, grid=None, random=None, draws=1, own=None, fixed=None):
    grid = {name: tuple(values) for name, values in (grid or {}).items()}
    common = Settings(fixed or {}, grid)
    return Spec(Path("spec.toml"), "", tuple(methods), common, own or {}, random or {}, draws)


def trials_of(tmp_path, text, parse=parse_toy):
    return make_trials(expand(read_spec(write_spec(tmp_path, text))), parse)


@settings(deadline=None)
@given(METHODS, GRIDS, st.integers(1, 4))
def test_every_combination_once_and_the_same_every_time(methods, grid, draws):
    random = {"init_std": Distribution("uniform", (1.0, 2.0))} if draws > 1 else {}
    spec = spec_of(methods, grid, random, draws)
    points = expand(spec)
    assert len(points) == len(methods) * draws * math.prod(map(len, grid.values()))
    assert points == expand(spec)
    assert len({repr(point) for point in points}) == len(points)
    trials = make_trials(points, parse_toy)
    assert len(trials) == len(points)
    names = [trial.name for trial in trials]
    assert len(set(names)) == len({trial.id for trial in trials}) == len(names)
    assert all(len(name) < 90 and name.replace("=", "").isascii() for name in names)


def test_the_last_axis_moves_fastest_and_methods_have_options_of_their_own():
    own = {"cgfedrec": Settings({"lr": 2.0}, {"clusters": (3, 4)})}
    spec = spec_of(["cgfedrec", "local"], {"seed": [0, 1]}, own=own, fixed={"lr": 1.0})
    cgfedrec, local = {"method": "cgfedrec"}, {"method": "local"}
    assert expand(spec) == [
        *(
            Point("cgfedrec", {"lr": 2.0, **axes}, cgfedrec | axes)
            for axes in ({"seed": s, "clusters": c} for s in (0, 1) for c in (3, 4))
        ),
        *(Point("local", {"lr": 1.0, "seed": s}, local | {"seed": s}) for s in (0, 1)),
    ]


def test_draws_that_coincide_are_one_trial():
    spec = spec_of(["local"], random={"dim": Distribution("choice", (8, 16))}, draws=20)
    points = expand(spec)
    assert len(points) == 20
    assert len(make_trials(points, parse_toy)) == 2


def test_words_of_a_trial(tmp_path):
    text = """
    method = "alignfedrec"
    rounds = 5
    lr = 1e-5
    gsa = false
    widths = [16, 32]
    dim = "unset"
    data_options = {items = 40, sep = ","}
    """
    (trial,) = trials_of(tmp_path, text)
    assert trial.arguments == (
        *("--rounds=5", "--lr=1e-05", "--no-gsa", "--widths", "16", "32", "--no-report"),
        *("--data-options", "items=40", "sep=,"),
    )
    assert trial.rounds == 5
    assert trials_of(tmp_path, 'method = "alignfedrec"\ngsa = true')[0].arguments == (
        "--no-report",
    )
    assert trials_of(tmp_path, 'method = "local"')[0].rounds == 40


def test_a_trial_keeps_its_id_when_the_specification_changes_around_it(tmp_path):
    (before,) = trials_of(tmp_path, 'method = "local"\nlr = 0.3')
    edited = (
        'method = ["local", "fedmf"]\nrounds = 9\nchunk = 4\ndevices = 1\n[grid]\nlr = [0.2, 0.3]'
    )
    after = {trial.id: trial for trial in trials_of(tmp_path, edited)}
    assert len(after) == 4
    assert after[before.id].axes == {"method": "local", "lr": 0.3}
    assert after[before.id].name != before.name


def test_what_decides_no_numbers_tells_trials_apart_when_it_is_swept(tmp_path):
    trials = trials_of(tmp_path, 'method = "local"\n[grid]\nchunk = [1, "auto"]\nrounds = [2, 3]')
    assert len({trial.id for trial in trials}) == 4


def test_an_explicit_default_is_the_same_trial(tmp_path):
    text = 'method = "pfedrec"\nrounds = 2\n'
    plain, explicit = (
        trials_of(tmp_path, text + more, parse_run)[0]
        for more in ("", 'lr = 0.1\nseed = 0\ndata = "synthetic"\nprotocol = "leak-free"\n')
    )
    assert plain.id == explicit.id


def test_a_preset_sets_the_defaults_that_flags_are_compared_with(tmp_path):
    text = 'method = "alignfedrec"\npreset = "leak-free"\ngsa = true'
    (trial,) = trials_of(tmp_path, text, parse_run)
    assert trial.arguments == ("--preset=leak-free", "--gsa", "--no-report")
    assert trial.options["gsa"] is True
    assert trial.options["graph_threshold"] == 0.06


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lrr = 1", "lrr is no option of fedjax-rec run cgfedrec (did you mean lr?); see"),
        ('rounds = "x"', "--rounds: 'x' is not a whole number; see fedjax-rec run cgfedrec"),
        ("lr = [1, 2]", "lr = [1, 2] takes one value: put what varies into [grid]"),
        ("no_report = 1", "no_report = 1 must be true or false"),
        ('out = "x"', "out is set by the sweep"),
        ('cohort = "half"', "--cohort 'half' is no number"),
        ("[grid]\ntemperature = [0.1, 0.01]", "temperature=0.01 is too small for float32"),
    ],
)
def test_options_are_checked_by_the_command_lines_own_parser(text, told, tmp_path):
    with pytest.raises(InputError) as error:
        trials_of(tmp_path, f'method = "cgfedrec"\n{text}', parse_run)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_option_of_one_of_the_methods_is_sent_to_its_table(tmp_path):
    with pytest.raises(InputError, match="options of one method stand in a table of its name"):
        trials_of(tmp_path, 'method = ["cgfedrec", "local"]\nclusters = 3', parse_run)


def test_clients_of_synthetic_data_are_users_unless_these_are_given(tmp_path):
    sweep = 'method = "local"\nclients = [100, 100_000]\n'
    phones = trials_of(tmp_path, sweep)
    assert [trial.arguments[-1] for trial in phones] == ["users=100", "users=100000"]
    assert [trial.axes for trial in phones] == [{"clients": 100}, {"clients": 100_000}]
    check_data(phones)
    silos = trials_of(tmp_path, sweep + "data_options = {users = 200_000}", parse_run)
    assert [trial.arguments[0] for trial in silos] == ["--clients=100", "--clients=100000"]
    check_data(silos)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clients = 50\ndata_options = {users = 40}", "clients = 50 is more than the 40 users of"),
        ("client_limit = 500", "client_limit = 500 is more than the 400 users of synthetic"),
        ("data_options = {userz = 40}", "userz= is no option of the synthetic dataset (did you"),
        ('data = "ml-100"', "'ml-100' is no dataset known here (did you mean ml-100k?)"),
        ('data = "no/such.csv"', "no/such.csv"),
    ],
)
def test_data_that_cannot_be_is_refused_before_anything_runs(text, told, tmp_path):
    trials = trials_of(tmp_path, f'method = "local"\n{text}', parse_run)
    with pytest.raises(InputError) as error:
        check_data(trials)
    assert told in str(error.value)


@pytest.mark.data
def test_more_clients_than_a_known_dataset_has_users(tmp_path, data_dir):
    trials = trials_of(tmp_path, 'method = "local"\ndata = "ml-100k"\nclients = 944', parse_run)
    with pytest.raises(InputError, match="944 is more than the 943 users of ml-100k: ask for 943"):
        check_data(trials)
