"""Configurations as they are written: found by name or path, and read with every mistake named.

Nothing heavy is imported here, so that a file that is not there is told at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from agentopd.base.files import read_text
from agentopd.base.parts import Part, closest

FOLDER = Path(__file__).parents[1] / "configs"
STORED = "config.yaml"
_P = TypeVar("_P", bound=Part)
_LAST = "study"
"""The last key that a run or a study writes."""
_LARGEST = 1_000_000  # bytes; and nodes, once aliases are written out
_MOST_KEYS = 10_000  # of one mapping, once merged ones are written out
_MOST_BITS = 128  # of an integer; nothing here is that large, and to print it may take for ever


class ConfigError(ValueError):
    """A configuration cannot be used; the message is for the person who wrote it."""


def find_config(named: str | Path) -> Path:
    """The file of a configuration: a path, or the name of one that comes with agentopd.

    `quickstart`, `studies/desk` and `configs/studies/desk.yaml` are found wherever one stands.

    Raises:
        ConfigError: there is none.
    """
    path = Path(named)
    if path.exists():
        return path
    words = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = FOLDER.joinpath(*words).with_suffix(".yaml")
    if not path.is_absolute() and ".." not in words and shipped.is_file():
        return shipped
    names = {str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml")}
    rows = {name for name in names if name.startswith("methods/")}
    raise ConfigError(
        f"{path} cannot be read: No such file or directory; of those that come with agentopd, "
        f"{closest(str(Path(*words).with_suffix('')), names - rows)}"
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, or holds something else; one line that names the file.
    """
    try:
        text = read_text(path, _LARGEST + 1)  # not all of it: there are files without an end
        if len(text) > _LARGEST:
            raise ConfigError(f"{path} is larger than {_LARGEST:,} bytes: it is no configuration")
        data = yaml.load(text, _Loader)
        _bounded(data, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        named = str(error) if str(path) in str(error) else f"{path} is not YAML: {error}"
        raise ConfigError(named) from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} holds {type(data).__name__}, "
            "not a mapping of settings such as `env: {id: ...}`"
        )
    return data


def read_stored(folder: Path) -> dict[str, Any]:
    """The complete configuration that a run or a study left in its folder.

    Raises:
        ConfigError: it is not there, or damaged; the message says what can be done.
    """
    path = folder / STORED
    try:
        found = read_mapping(path)
        if _LAST not in found or not read_text(path).endswith("\n"):
            raise ConfigError(f"{path} is cut off: its end, {_LAST}, is missing")
        return found
    except ConfigError as error:
        raise ConfigError(
            f"{error}. A run writes it whole and never changes it: put a copy back, or start "
            "again in another folder"
        ) from error


def read_part(family: type[_P], written: str, what: str) -> _P:
    """A part as a command line names it: its kind, or a mapping in YAML with its settings.

    Args:
        what: how a message calls it.

    Raises:
        ConfigError: there is none of that kind, or a setting is wrong; one line.
    """
    try:
        return family.model_validate(yaml.safe_load(written))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{what}: {where + ': ' if where else ''}{said}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not YAML") from error


def last_stage(folder: Path) -> Path:
    """The folder of a run's last stage that has been saved; of a run without stages, its own."""
    found = {
        int(path.name.partition("-")[0]): path
        for path in (folder / "stages").glob("*-*")
        if (path / "checkpoints").is_dir() and path.name.partition("-")[0].isdigit()
    }
    return found[max(found)] if found else folder


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, one would win without a word. Merged keys and
    numbers have bounds.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise yaml.constructor.ConstructorError(
                None, None, "its merged keys are too many", node.start_mark
            )

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(
                None, None, "the number is too large", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _bounded(data: Any, path: Path) -> None:
    """Refuse what aliases make endless or too large to write out."""
    waiting, count = [(data, ())], 0
    while waiting:
        value, above = waiting.pop()
        count += 1
        if count > _LARGEST or id(value) in above:
            raise ConfigError(f"{path} is too large once its aliases are written out")
        inner = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, Mapping | list):
            waiting += [(each, (*above, id(value))) for each in inner]
