"""Settings read from mappings (YAML, JSON) and checked field by field; the settings classes themselves lie elsewhere.

Every settings class is a frozen dataclass, built with `from_mapping`: an unknown field or a value of the wrong type is
a `ConfigError` that names the field, what was found, and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kipoi_seq2exp.errors import ConfigError, InputError, brief
from kipoi_seq2exp.files import check_regular

Settings = TypeVar("Settings")
SHOWN = 12  # valid names that an error lists


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest valid name, or the first few of the valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    more = f", ... {len(names)} in all" if len(names) > SHOWN else ""
    return f" (valid: {', '.join(names[:SHOWN])}{more})"


def from_mapping(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Build the settings class `cls` from a mapping, checking names and types.

    Parameters
    ----------
    cls : type
        A frozen dataclass of settings.
    values : Mapping
        Field names to values, as parsed from YAML or JSON.
    where : str
        What the mapping was read from; starts every error message.

    Raises
    ------
    ConfigError
        If a field is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of fields, found {type(values).__name__}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(f"{where}: unknown field '{name}'{suggest(str(name), fields)}.")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: the field '{name}' is missing.")
    arguments = {name: _coerce(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_largest(settings: Any, largest: Mapping[str, float]) -> None:
    """Check that fields are not above the largest plausible values: a slip must not fill the memory.

    Raises
    ------
    ConfigError
        If one does, or is not a number at all; fields that are None are left out.
    """
    for name, most in largest.items():
        value = getattr(settings, name)
        if value is not None and not value <= most:
            raise ConfigError(f"{name} must be at most {most:,}, found {value:,}.")


def to_mapping(settings: Any) -> dict[str, Any]:
    """Turn settings into plain numbers, texts, lists and mappings, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    result: dict[str, Any] = plain(settings)
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping; an error says in one sentence why it cannot be read."""
    path = Path(path)
    check_regular(path, str(path))
    try:
        with path.open(encoding="utf-8-sig") as handle:
            values = yaml.safe_load(handle)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a YAML mapping of fields, found {type(values).__name__}.")
    return values


def changed(
    before: Mapping[str, Any], now: Mapping[str, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the entries in which two nested mappings differ: the names that lead there, and both values."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed(old, new, (*place, name))
        elif old != new:
            yield (*place, name), old, new


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a text for each entry in which two nested mappings differ, with both values."""
    return [f"{': '.join(place)} was {_short(old)}, now {_short(new)}" for place, old, new in changed(before, now)]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON mapping.

    Raises
    ------
    InputError
        If the file is missing or holds something else.
    """
    check_regular(path, str(path))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({brief(error)}).") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object of settings, found {type(values).__name__}.")
    return values


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against the type `hint`, widening int to float and text to enum or path."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        if value is None:
            if type(None) in arguments:
                return None
            raise ConfigError(f"{where} may not be empty.")
        options = [option for option in arguments if option is not type(None)]
        return _coerce(options[0], value, where)
    if origin is tuple:
        return _coerce_list(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a mapping, found {value!r}.")
        return {str(key): _coerce(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)  # type: ignore[arg-type]
    if issubclass(hint, enum.Enum):
        return _coerce_enum(hint, value, where)
    return _coerce_plain(hint, value, where)


def _coerce_list(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{where} must be a list, found {value!r}.")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise ConfigError(f"{where} must hold {len(arguments)} values, found {len(value)}.")
    return tuple(_coerce(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _coerce_enum(hint: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return hint(value)
    except ValueError:
        valid = [member.value for member in hint]
        raise ConfigError(f"{where}: unknown value {value!r}{suggest(str(value), valid)}.") from None


def _coerce_plain(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**18:
            raise ConfigError(f"{where} must be a number of at most 18 digits.")
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-5 (no dot) as text
        try:
            return _finite(float(value), where)
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(f"{where} must be a number, found {value!r}.") from None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise ConfigError(f"{where} must be {_TYPE_WORDS.get(hint, hint.__name__)}, found {value!r}.")
    if isinstance(value, int) and abs(value) >= 10**18:  # beyond 64 bits, or as good as
        raise ConfigError(f"{where} must be a whole number of at most 18 digits.")
    return _finite(value, where)


def _finite(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, found {value}.")
    return value


_TYPE_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
