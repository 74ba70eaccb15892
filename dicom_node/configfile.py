"""Settings on their way: from config.toml into `serve` and the commands, and from `serve` to its worker.

An error names the key, its value, and what is allowed; for an unknown key it names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from dicom_node.config import TLS_FILES, Config, Section
from dicom_node.errors import ConfigError

S = TypeVar("S", bound=Section)


def load(path: Path) -> Config:
    """Read and check `path`; paths in it are relative to its folder. Raises ConfigError, listing every fault found."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be read: {exc.strerror}; give the configuration file with --config or DICOM_NODE_CONFIG"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 (byte {exc.start}); save it in that encoding") from exc
    except (ValueError, RecursionError) as exc:  # one of 5,000 digits, or lists in lists without end
        raise ConfigError(f"{path}: is not valid TOML: {exc}") from exc
    try:  # by way of JSON, where strict mode takes lists for tuples; TOML itself tells text from numbers
        config = Config.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as exc:
        faults = "\n".join(f"  {_explain(error)}" for error in exc.errors())
        raise ConfigError(f"{path}:\n{faults}") from exc
    folder = path.resolve().parent
    moved: dict[str, Any] = {"data_folder": folder / config.node.data_folder.expanduser()}
    scheme, slashes, rest = config.node.database_url.partition(":///")
    if slashes and scheme.startswith("sqlite"):
        moved["database_url"] = f"{scheme}:///{folder / rest}"
    node = _beside(config.node, folder, *TLS_FILES).model_copy(update=moved)
    model = _beside(config.model, folder, "checkpoint")
    peers = tuple(_beside(peer, folder, *TLS_FILES) for peer in config.peers)
    found = config.model_copy(update={"node": node, "model": model, "peers": peers})
    try:
        to_line(found)
    except PydanticSerializationError as exc:
        raise ConfigError(f"{str(path)!a}: the name of a folder here is not UTF-8; rename it") from exc
    return found


def to_line(config: Config) -> bytes:
    """The settings of `serve` as one line for its worker; paths are absolute by now."""
    return config.model_dump_json().encode() + b"\n"


def from_line(line: bytes) -> Config:
    """The reverse of `to_line`. Raises ConfigError, which quotes nothing: there may be a password."""
    try:
        return Config.model_validate_json(line, strict=True)
    except ValidationError as exc:
        raise ConfigError(
            "the settings from serve cannot be read: was another dicom-node version installed meanwhile? restart serve"
        ) from exc


def _beside(section: S, folder: Path, *names: str) -> S:
    """A copy in which these paths, where given, are resolved against `folder`."""
    given = {name: getattr(section, name) for name in names if getattr(section, name) is not None}
    return section.model_copy(update={name: folder / path.expanduser() for name, path in given.items()})


def _explain(error: Any) -> str:
    """One line per fault: the key, what is wrong, the value given."""
    where = ".".join(f"[{part + 1}]" if isinstance(part, int) else str(part) for part in error["loc"]).replace(
        ".[", "["
    )
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        known = _known_keys(tuple(p for p in parents if isinstance(p, str)))
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    if error["type"] == "missing":
        return f"{where}: is missing"
    if error["type"] in ("tuple_type", "list_type") and not isinstance(error["input"], dict):
        return f"{where} = {error['input']!r}: should be a list, such as [{json.dumps(error['input'], default=str)}]"
    if error["type"] in ("model_type", "tuple_type"):
        return f"{where}: should be {'blocks that begin' if where == 'peers' else 'a section that begins'} with " + (
            "[[peers]]" if where.startswith("peers") else f"[{where}]"
        )
    if isinstance(error["input"], dict):  # raised by a section's own validator
        return f"{where}: {message}"
    return f"{where} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(path: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for key in path:
        model = _model_in(model.model_fields[key].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    """The section class inside an annotation such as `tuple[Peer, ...]`."""
    if get_origin(annotation) in (tuple, Union, UnionType):
        annotation = next(a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel))
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation
