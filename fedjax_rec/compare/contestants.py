"""What is compared: methods with options, as words of the command line or as a TOML file.

Words, with commas between them: ``NAME[@PRESET][:OPTION=VALUE]...``, such as
``pfedrec,alignfedrec@leak-free,fedmf:dim=64:lr=0.1:label=wide``. Values that hold a comma or a
colon need the file, with a table for each. ``seeds`` is how many of the comparison's seeds a costly
method runs with, the first ones.

.. code-block:: toml

    [pfedrec]                  # the label, and the method where none is named

    ["fedmf wide"]
    method = "fedmf"
    dim = 64
    seeds = 1                  # of those that the comparison has

    [aligned]
    method = "alignfedrec"
    preset = "leak-free"

Whether an option exists and takes a value, the parser of the command line says (`sweep.trials`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.methods import REGISTRY, preset_options
from fedjax_rec.sweep.spec import Value

__all__ = ["Contestant", "read_contestants"]

# What all that are compared share; where the command line has it.
_SHARED = {
    **{name: f"--{name.replace('_', '-')}" for name in ("data", "data_options", "split")},
    **{name: f"--{name.replace('_', '-')}" for name in ("clients", "client_limit", "click_noise")},
    **{"protocol": "--protocol", "seed": "--seeds"},
}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Contestant:
    """One of those that are compared.

    Attributes:
      label: what tables and figures call it.
      method: a name of the registry.
      options: of ``fedjax-rec run METHOD`` by their names, ``preset`` among them.
      seeds: how many of the comparison's seeds it runs with, the first ones; None: all.
    """

    label: str
    method: str
    options: Mapping[str, Value]
    seeds: int | None = None

    def seeds_of(self, wanted: Sequence[int]) -> Sequence[int]:
        """Those that it runs with, of the comparison's."""
        return wanted[: self.seeds]


def read_contestants(text: str) -> tuple[Contestant, ...]:
    """Reads what ``--methods`` says.

    Args:
      text: words with commas between them, or the path of a ``.toml`` file.

    Raises:
      InputError: nothing to compare, an unknown method or preset, a label that occurs twice, or
        an option that must be the same for all.

    Example:
      >>> [c.label for c in read_contestants("local,fedmf:dim=64")]
      ['local', 'fedmf dim=64']
    """
    if text.strip().endswith(".toml"):
        path = Path(text.strip())
        try:
            return _checked(_from_tables(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    words = [word.strip() for word in text.split(",")]
    if not any(words):
        raise InputError("--methods names nothing: give names such as pfedrec,fedmf,local")
    if not all(words):
        raise InputError(f"--methods {text!r} has an empty place between two commas: take it out")
    return _checked([_from_word(word) for word in words])


def _from_word(word: str) -> Contestant:
    head, *pairs = word.split(":")
    method, _, preset = head.partition("@")
    options: dict[str, Value] = {"preset": preset} if "@" in head else {}
    shown = [head]
    label = seeds = None
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name or not value:
            raise InputError(
                f"--methods {word!r}: {pair!r} is not of the form OPTION=VALUE (values with a "
                "colon or a comma need a TOML file)"
            )
        name = name.replace("-", "_")
        if name in options:
            raise InputError(f"--methods {word!r} has {name} twice")
        if name == "label":
            label = value
            continue
        if name == "seeds":
            seeds = _seeds(value, word)
            continue
        options[name] = _BOOLEANS.get(value, value)
        shown.append(pair)
    return Contestant(label or " ".join(shown), method, options, seeds)


def _from_tables(path: Path) -> list[Contestant]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"cannot be read ({reason}); name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is no TOML: {error}; see https://toml.io") from None
    if not content:
        raise InputError("names nothing to compare: write a table for each, such as [pfedrec]")
    found = []
    for label, table in content.items():
        if not isinstance(table, dict):
            raise InputError(
                f"{label} is in no table: options of all belong to the command line, those of one "
                "into its table, such as [pfedrec]"
            )
        options = {name.replace("-", "_"): _value(name, label, v) for name, v in table.items()}
        method = options.pop("method", label)
        seeds = _seeds(options.pop("seeds"), f"[{label}]") if "seeds" in options else None
        found.append(Contestant(label, str(method), options, seeds))
    return found


def _seeds(value: Value, where: str) -> int:
    """A number of seeds; ``where`` is for the error."""
    text = str(value)
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            f"seeds of {where} is {text}: give how many of the comparison's seeds it runs with, "
            "1 or more"
        )
    return int(text)


def _value(name: str, label: str, value: Any) -> Value:
    if isinstance(value, list):
        return tuple(_value(name, label, inner) for inner in value)
    if not isinstance(value, str | int | float):
        raise InputError(f"{name} in [{label}] is no number, text, true or false")
    return value


def _checked(found: Sequence[Contestant]) -> tuple[Contestant, ...]:
    for index, contestant in enumerate(found):
        check_choice("method", contestant.method, REGISTRY)
        preset = contestant.options.get("preset")
        preset_options(contestant.method, None if preset is None else str(preset))
        for name in contestant.options:
            if name in _SHARED:
                raise InputError(
                    f"{name} of {contestant.label!r}: it is the same for all that are compared; "
                    f"give it once, as {_SHARED[name]}"
                )
        if contestant.label in [other.label for other in found[:index]]:
            raise InputError(
                f"{contestant.label!r} is there twice: give one of them another label "
                f"({contestant.method}:label=NAME, or the name of its table)"
            )
    return tuple(found)
