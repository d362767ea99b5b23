"""The command line: parses into dataclasses, calls the API, nothing more.

A user's mistake ends with one line on the standard error and status 2. `options` holds what the
commands take, `parser` how words become them, and the other files what the larger commands do.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fedjax_rec import supervisor
from fedjax_rec.cli import datasets
from fedjax_rec.cli.options import DataGet, DataInfo, DataList, DataSynth, Report
from fedjax_rec.cli.parser import command_types, parse_run, preset_of
from fedjax_rec.cli.running import run, show_runs
from fedjax_rec.cli.trials import compare, sweep
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.methods import load_plugins
from fedjax_rec.parsing import parse

__all__ = ["main", "parse_run", "worker"]

_USAGE_ERROR = 2
_INTERRUPTED = 130

DESCRIPTION = """Federated recommendation, simulated with all clients as one batched pytree.

    fedjax-rec run cgfedrec --data ml-100k --rounds 100
    fedjax-rec run local --data ml-100k --protocol published
    fedjax-rec sweep SPEC.toml
    fedjax-rec compare --methods pfedrec,fedmf,local --data ml-100k --seeds 3
    fedjax-rec report runs/*"""


def main(argv: Sequence[str] | None = None, *, supervised: bool = False) -> None:
    """Entry point of ``fedjax-rec``.

    Exits with 0, 1 (some trials failed), 2 (a mistake, one line) or 130 (Ctrl-C).

    Args:
      argv: arguments; None: the process's.
      supervised: whether a supervisor watches over this process, one of several of a run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments, supervised)
    except (InputError, TrainingError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as with ``| head``


def worker() -> None:
    """Entry point of one process of several, under a supervisor: ``main``, and its own end.

    Where the run fails here, the others may be waiting for this process, or be gone: JAX's clean-up
    at the exit would wait for them in turn.
    """
    from fedjax_rec.simulation import joining

    supervisor.end_with_supervisor()
    status = 0
    try:
        main(supervised=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    joining.leave(orderly=status == 0)
    os._exit(status)


def _dispatch(arguments, supervised):
    load_plugins()
    command = parse(
        command_types(preset_of(arguments)), arguments, prog="fedjax-rec", description=DESCRIPTION
    )
    command = getattr(command, "command", command)
    if isinstance(command, DataList):
        datasets.list_known()
    elif isinstance(command, DataInfo):
        datasets.info(command)
    elif isinstance(command, DataGet):
        datasets.get(command)
    elif isinstance(command, DataSynth):
        datasets.synth(command)
    elif isinstance(command, Report):
        _report(command)
    elif hasattr(command, "sweep"):
        sweep(command)
    elif hasattr(command, "compare"):
        compare(command, arguments)
    else:
        run(command, arguments, supervised)


def _report(command):
    from fedjax_rec.reports.html import write_report

    if not command.runs:
        raise InputError("report: name at least one run folder, such as runs/*")
    out = command.out
    if out is None:
        out = command.runs[0] / "report.html" if len(command.runs) == 1 else Path("compare.html")
    page = write_report(command.runs, out)
    show_runs(command.runs)
    print(f"report: {page}")


def _fail(message: str) -> None:
    print(f"{supervisor.ERROR}{message}", file=sys.stderr)
    raise SystemExit(_USAGE_ERROR)
