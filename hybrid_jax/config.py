"""Configs as nested frozen dataclasses: typed overrides from the command line, a JSON form, a hash.

An experiment's `config()` returns the defaults. `parse` lays `--algorithm.beta 0.02 --seed 3` over them, or, for
several fields of one nested config, `--gap gravity=2.0,friction=0.3`: a misspelt field or a value of the wrong type
ends the program with one sentence. The comment behind a field is its help text. Fields that hold functions belong
to the experiment's file and cannot be overridden.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Config = TypeVar("Config")


class ConfigError(ValueError):
    """What the user asked for cannot be made a config; the text is one sentence with the cure."""


def parse(config: Config, args: list[str], prog: str, description: str) -> Config:
    """The config with the command line's overrides; exits with code 2 on a bad one, 0 after `--help`."""
    if "-h" in args or "--help" in args:
        _print_help(config, prog, description)
    try:
        return override(config, args)
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def override(config: Config, args: list[str]) -> Config:
    """The config with the overrides `--a.b value` or `--a.b=value` laid over it; of two, the last wins.

    Hyphens and underscores are the same, tuples are `64,64` or `64 64`, and a bare `--flag` is True. A nested
    config takes several of its fields at once, `--a b=1,c=2`; those not named keep their value.
    Raises ConfigError for an unknown field, a value of the wrong type, or one the dataclass itself refuses.
    """
    known = _fields(config)
    changes = {}
    for name, words in _spelt_out(_groups(args), known):
        if name not in known:
            raise ConfigError(f"unknown field --{name}{_hint('--', name, known)}; the known ones: {_listed(known)}.")
        changes[name] = _value(name, known[name], words)
    return _replace(config, changes)


def to_json(config: Any) -> dict:
    """The config as plain JSON values: tuples as lists, paths and non-finite numbers as strings."""
    return {f.name: _plain(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)}


def diff(config: Any, defaults: Any) -> dict:
    """The fields that differ from the defaults, as dotted names with their new JSON values."""
    return json_diff(to_json(config), to_json(defaults))


def json_diff(new: dict, old: dict) -> dict:
    """The entries of a config's JSON form that another does not have, as dotted names with their new values."""
    new, old = _flat(new), _flat(old)
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def config_hash(config: Any) -> str:
    """SHA-256 of the config's canonical JSON (sorted keys, no blanks); equal configs have equal hashes."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _print_help(config: Any, prog: str, description: str) -> NoReturn:
    import tyro

    if any(_is_config(getattr(config, field.name)) for field in dataclasses.fields(config)):
        description += " Several fields of one group: --GROUP NAME=VALUE,NAME=VALUE."
    shown = _narrowed(config)
    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    tyro.cli(type(shown), default=shown, args=["--help"], prog=prog, description=description, config=markers)
    raise SystemExit(0)


def _narrowed(config: Any) -> Any:
    """The same config in a class whose nested fields have the type of their value.

    Of `algorithm: h2o.Config | sac.Config` the help must show the one in use; tyro tells the members of a
    union by their names, which are alike here.
    """
    nested = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    nested = {name: _narrowed(value) for name, value in nested.items() if _is_config(value)}
    fields = [(name, type(value), dataclasses.field(default=value)) for name, value in nested.items()]
    base = type(config)
    cls = dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True)
    # By these names tyro finds the source, and in it the comments.
    for name in {"__doc__", "__module__", "__qualname__", "__firstlineno__"} & vars(base).keys():
        setattr(cls, name, getattr(base, name))
    return cls(**{f.name: nested.get(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)})


def _fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> annotation of every field that the command line may set."""
    hints = typing.get_type_hints(type(config))
    known = {}
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if _is_config(value):
            known |= _fields(value, f"{prefix}{field.name}.")
        elif not callable(value) and Callable not in (hint, *map(typing.get_origin, _members(hint))):
            known[prefix + field.name] = hint
    return known


def _groups(args: list[str]) -> list[tuple[str, list[str]]]:
    """Splits a command line into (dotted name, its words)."""
    groups: list[tuple[str, list[str]]] = []
    for arg in args:
        if arg.startswith("--") and len(arg) > 2:
            name, equals, word = arg[2:].partition("=")
            groups.append((name.replace("-", "_"), [word] if equals else []))
        elif not groups:
            raise ConfigError(f"unexpected argument {arg!r}; overrides are written --field value.")
        else:
            groups[-1][1].append(arg)
    return groups


def _spelt_out(groups: list[tuple[str, list[str]]], known: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The groups with each `a: b=1,c=2` as `a.b: 1` and `a.c: 2`, where `a` is a nested config."""
    for group, words in groups:
        fields = [name.removeprefix(f"{group}.") for name in known if name.startswith(f"{group}.")]
        if not fields:
            yield group, words
            continue
        # A comma ends a value only where the next NAME= follows: `hidden=64,64,beta=1` holds a tuple.
        for pair in re.split(r",+(?=[\w.-]+=)", ",".join(words).strip(",")):
            name, equals, value = pair.partition("=")
            name = name.replace("-", "_")
            if equals and name in fields:
                yield f"{group}.{name}", [value]
                continue
            wrong = f"has no field {name!r}{_hint('', name, fields)}"
            if not equals:
                wrong = f"takes NAME=VALUE pairs separated by commas, {_instead(pair)}"
            raise ConfigError(f"--{group} {wrong}; its names: {', '.join(fields)}.")


def _value(name: str, hint: Any, words: list[str]) -> Any:
    """Turns the words of one override into a value of the field's type; tyro does the conversion."""
    import tyro

    given = " ".join(words)
    members = _members(hint)
    if bool in members:
        words = [word.capitalize() if word.lower() in ("true", "false") else word for word in words] or ["True"]
    if type(None) in members and given.lower() == "none":
        words = ["None"]
    if any(typing.get_origin(member) in (tuple, list) for member in members):
        words = given.strip("()[]").replace(",", " ").split()
    try:
        # tyro frames its own messages and prints them; ours is the single sentence below.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(hint, args=words, console_outputs=False)
    except SystemExit:
        raise ConfigError(f"--{name} takes {_described(hint)}, {_instead(given)}.") from None


def _replace(config: Any, changes: dict[str, Any], prefix: str = "") -> Any:
    """`dataclasses.replace` for dotted names; rebuilds each once, so `__post_init__` sees all changes."""
    own = {name: value for name, value in changes.items() if "." not in name}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, dot, rest = name.partition(".")
        if dot:
            nested.setdefault(head, {})[rest] = value
    for name, inner in nested.items():
        own[name] = _replace(getattr(config, name), inner, f"{prefix}{name}.")
    try:
        return dataclasses.replace(config, **own)
    except ValueError as error:
        raise ConfigError(f"{_listed(prefix + name for name in own)}: {error}") from error


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _members(hint: Any) -> tuple:
    """The alternatives of a union; a plain type is its own only one."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _described(hint: Any) -> str:
    """The type in words: `an int`, `one of a, b`, `a float or None`."""
    words = []
    for member in _members(hint):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if origin is typing.Literal:
            words.append("one of " + ", ".join(map(str, arguments)))
        elif origin is tuple and arguments[-1] is not Ellipsis:
            words.append(f"{len(arguments)} values ({', '.join(map(_described, arguments))})")
        elif origin in (tuple, list):
            words.append(f"values of type {_described(arguments[0])} separated by commas or blanks")
        elif member is type(None):
            words.append("None")
        else:
            name = getattr(member, "__name__", str(member))
            words.append(f"an {name}" if name == "int" else f"a {name}")
    return " or ".join(words)


def _instead(given: str) -> str:
    return f"not {given!r}" if given else "and none was given"


def _hint(dashes: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {dashes}{close[0]}?)" if close else ""


def _listed(names: Any) -> str:
    return ", ".join(f"--{name}" for name in names)


def _flat(values: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict of dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _plain(name: str, value: Any) -> Any:
    """A field's value in JSON's own types; raises TypeError with its name where there is no such form."""
    if _is_config(value):
        return {f.name: _plain(f"{name}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    raise TypeError(f"the config field {name} holds a {type(value).__name__}, which has no JSON form.")
