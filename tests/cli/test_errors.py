"""A user's mistake: one line that says what, where and how to mend it; nothing written."""

import subprocess
import sys

import numpy as np
import pytest

from fedjax_rec.methods import REGISTRY
from tests.cli.commands import COMMAND, TINY, error_line, here, process, refused, summary

FIRST = next(iter(REGISTRY))
RUN = ("run", "cgfedrec", *TINY, "--clusters", "5", "--rounds", "1")
ALL_TOUCHED = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t{item}\n" for user in range(3) for item in range(4)
)

PARSING = {
    "method": (("run", "cgfedrek"), f"Unrecognized options: cgfedrek; choose from {FIRST}, "),
    "no method": (("run",), ", ".join(REGISTRY)),
    "command": (("train",), "choose from run, sweep, compare, data, report; see fedjax-rec --help"),
    "option": ((*RUN, "--clusterz", "3"), "did you mean --clusters?; see fedjax-rec run cgfedrec"),
    "no value": ((*RUN, "--seed"), "--seed: no value; see fedjax-rec run cgfedrec --help"),
    "number": ((*RUN, "--rounds", "x"), "--rounds: 'x' is not a whole number; see "),
    "fraction": ((*RUN, "--clip", "x"), "--clip: 'x' is not a number; see "),
    "chunk": ((*RUN, "--chunk", "many"), "--chunk: 'many' is not a whole number or 'auto'; see"),
    "choice": ((*RUN, "--protocol", "honest"), "'honest' for argument '--protocol'"),
    "optional choice": ((*RUN, "--evaluate-at", "x"), "'x' is not 'download' or 'trained'"),
}
OPTIONS = {
    "dataset": (("--data", "ml-100"), "'ml-100' is no dataset known here (did you mean ml-100k?)"),
    "file": (("--data", "no/such.csv"), "no/such.csv"),
    "data option": (("--data-options", "userz=3"), "userz= is no option of the synthetic dataset"),
    "data option form": (("--data-options", "users"), "'users' is not of the form name=value"),
    "ratio": (("--split", "half"), "'half'"),
    "cohort": (("--cohort", "half"), "--cohort 'half' is no number: use a fraction such as 0.1"),
    "cohort above one": (("--cohort", "1.5"), "must be above 0 and at most 1"),
    "cohort of nobody": (("--cohort", "0"), "cohort=0 must be from 1 to the number of clients"),
    "empty cohort": (("--cohort", "0.01"), "cohort=0.01 of 24 clients is an empty cohort"),
    "chunk": (("--chunk", "0"), "chunk=0 must be 'auto' or at least 1"),
    "rounds": (("--rounds", "0"), "rounds=0 must be at least 1"),
    "seed": (("--seed", "-1"), "seed=-1 is no seed"),
    "clients": (("--clients", "25"), "clients=25 is more than the 24 users"),
    "client limit": (("--client-limit", "25"), "client_limit=25 is more than the 24 clients"),
    "click noise": (("--click-noise", "10"), "click noise of 10.0 must be from 0 to 1 (0.1 is"),
    "clusters": (("--clusters", "41"), "clusters=41 is more than the 40 items of synthetic"),
    "temperature": (("--temperature", "0.01"), "too small for float32: use at least 0.03"),
    "learning rate": (("--lr", "nan"), "lr=nan must be a finite number"),
    "bits": (("--bits", "0"), "bits"),
    "devices": (("--devices", "99"), "devices=99 but JAX has"),
    "debug": (("--debug", "--devices", "2"), "debug runs client by client on one device"),
}


@pytest.mark.parametrize("name", PARSING)
def test_words_that_cannot_be_parsed(name, capfd):
    arguments, told = PARSING[name]
    assert told in refused(capfd, *arguments)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_met(name, capfd, tmp_path, two_devices):
    options, told = OPTIONS[name]
    out = tmp_path / "run"
    assert told in refused(capfd, *RUN, "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "cgfedrek"), f"choose from {FIRST}, "),
        ((*RUN, "--clusters", "41"), "use at most 40"),
    ],
)
def test_the_installed_command_says_one_line(arguments, told, tmp_path):
    done = process(*arguments, *(("--out", tmp_path / "run") if len(arguments) > 2 else ()))
    assert done.returncode == 2
    assert told in error_line(done.stdout, done.stderr)
    assert not (tmp_path / "run").exists()


def test_a_dataset_in_which_a_user_touched_every_item(tmp_path, capfd):
    path = tmp_path / "all.inter"
    path.write_text(ALL_TOUCHED)
    out = tmp_path / "run"
    message = refused(capfd, "run", "local", "--data", path, "--out", out)
    assert message.startswith("all: user '0' has touched every one of the 4 items")
    assert message.endswith("remove the user or add items")
    assert not out.exists()


def test_a_broken_file_names_its_line(tmp_path, capfd):
    path = tmp_path / "bad.csv"
    path.write_text("user,item,timestamp\na,x,1\na,y,soon\n")
    message = refused(capfd, "run", "local", "--data", path, "--out", tmp_path / "run")
    assert f"{path}:3" in message
    assert not (tmp_path / "run").exists()


CODES = {
    "levels": (("--levels", "0"), "levels=0 must be at least 1"),
    "codewords": (("--codewords", "0"), "codewords=0 must be at least 1"),
    "more codewords than items": (("--codewords", "41"), "use at most 40"),
    "more codewords by default": (("--codewords", "256"), "more than the 40 items of synthetic"),
    "whole levels": (("--levels", "1.5"), "--levels: '1.5' is not a whole number"),
    "recode every": (("--recode-every", "0"), "recode_every=0 must be at least 1"),
    "warm-up": (("--warmup", "0"), "warmup=0 must be at least 1"),
    "noise": (("--noise", "-0.1"), "noise=-0.1 must be a finite number, 0 or more"),
    "noise that is none": (("--noise", "nan"), "noise=nan must be a finite number, 0 or more"),
    "endless noise": (("--noise", "inf"), "noise=inf must be a finite number, 0 or more"),
    "noise on nothing": (("--noise", "1", "--without", "item-embeddings"), "or use laplace"),
    "part": (("--without", "titles"), "--without: 'titles'"),
    "semantics": (("--semantics", "titles"), "semantics='titles' is no source of item vectors"),
    "two of one": (("--semantics", "a.npz", "--without", "semantic"), "not read with without="),
    "no such file": (("--semantics", "no/such.npz"), "no/such.npz"),
}
VECTORS = {
    "a row too few": (np.ones((39, 5)), "(39, 5) where 40 item ids need (40, width)"),
    "no rows": (np.ones(40), "(40,) where 40 item ids need (40, width)"),
    "no width": (np.ones((40, 0)), "(40, 0) where 40 item ids need (40, width)"),
    "a NaN": (np.where(np.eye(40, 5), np.nan, 1), "holds NaN or infinity (as do 5 in all)"),
    "infinity": (np.where(np.eye(40, 5), np.inf, 1), "holds NaN or infinity (as do 5 in all)"),
    "words": (np.full((40, 5), "x"), "'embedding' is <U1; save numbers"),
}


@pytest.mark.parametrize("name", CODES)
def test_codes_that_cannot_be(name, capfd, tmp_path):
    options, told = CODES[name]
    out = tmp_path / "run"
    assert told in refused(
        capfd, "run", "rqfedrec", *TINY, "--codewords", "5", "--out", out, *options
    )
    assert not out.exists()


@pytest.mark.parametrize("name", VECTORS)
def test_item_vectors_that_cannot_be(name, capfd, tmp_path):
    vectors, told = VECTORS[name]
    path, out = tmp_path / "vectors.npz", tmp_path / "run"
    np.savez(path, item_id=np.arange(40), embedding=vectors)
    arguments = ("--codewords", "5", "--semantics", path, "--out", out)
    message = refused(capfd, "run", "rqfedrec", *TINY, *arguments)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert not out.exists()


def test_without_content_there_is_no_semantic_channel(tmp_path, capfd):
    """And what the message offers works."""
    path, out = tmp_path / "plain.csv", tmp_path / "run"
    rows = (f"{user},{10 * user + item},{item}\n" for user in range(6) for item in range(9))
    path.write_text("user,item,timestamp\n" + "".join(rows))
    tiny = ("--dim", "2", "--codewords", "3", "--fit-steps", "1", "--rounds", "1", "--quiet")
    run = ("run", "rqfedrec", "--data", path, "--out", out, "--no-report", *tiny)
    message = refused(capfd, *run)
    assert message.startswith("plain: no titles and no genres")
    assert message.endswith("give --semantics PATH.npz, or run --without semantic")
    assert not out.exists()
    here(*run, "--without", "semantic")
    assert summary(out)


def test_report_refuses_what_is_no_run(tmp_path, capfd):
    assert "name at least one run folder" in refused(capfd, "report")
    assert "no such folder" in refused(capfd, "report", tmp_path / "nothing")
    assert "not a run folder" in refused(capfd, "report", tmp_path)


def test_a_reader_that_leaves_early_is_no_error():
    """As with ``fedjax-rec data list | head -1``."""
    listing = subprocess.Popen(
        [COMMAND, "data", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    listing.stdout.close()
    err = listing.stderr.read().decode()
    listing.wait()
    assert "Traceback" not in err


def test_module_and_command_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec.cli", "run"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cgfedrec" in error_line(done.stdout, done.stderr)
