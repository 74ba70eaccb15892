"""What a single value of config.toml may be: an AE title, a host, a network, a wait. What is wrong is said in words."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt

ANYBODY = "*"


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1..16 characters of the default repertoire, no backslash; outer spaces do not count."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not re.fullmatch(r"[ -\[\]-~]+", title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    if title == ANYBODY:  # a peer is also allowed to send: this one would let everybody in
        raise ValueError(f"{ANYBODY} stands for anybody, and is no AE title")
    return title


def _sender(value: str) -> str:
    return ANYBODY if value.strip(" ") == ANYBODY else _ae_title(value)


def _path(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("a path has no NUL in it")
    try:
        value.expanduser()
    except RuntimeError as exc:
        raise ValueError("there is no such user here, or none with a home folder") from exc
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value.strip())
    except ValueError as exc:
        raise ValueError(f"must be an address or network, such as 192.0.2.7 or 192.0.2.0/24: {exc}") from exc
    return value


def _host(value: str) -> str:
    """A name or an address alone; anything else would fail in the resolver on every attempt.

    No name ends in a number (RFC 1123 2.1). The resolver would read one as an address all the same: 192.168.010.020 as
    192.168.8.16, and 192.168.1 as 192.168.0.1.
    """
    labels = value.removesuffix(".").split(".")
    is_name = all(re.fullmatch(r"[\w-]{1,63}", label) for label in labels) and len(value) <= 253
    if not is_name or re.fullmatch(r"\d+|0[xX][0-9a-fA-F]*", labels[-1]) or not _resolvable(value):
        try:
            ipaddress.ip_address(value.partition("%")[0])
        except ValueError as exc:
            raise ValueError("must be a name or an address alone, such as pacs.example.org or 192.0.2.10") from exc
    return value


def _resolvable(name: str) -> bool:
    """Whether the resolver takes it: of a label with other letters than ASCII it looks for another spelling, which may
    be too long (RFC 3490)."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def place(host: str) -> str:
    """The host, such that two ways to write one address or name are the same; what names stand for is not asked."""
    name = host.removesuffix(".").lower()
    if name == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _readers(value: object) -> object:
    if value != "auto" and (not isinstance(value, int) or value < 0):
        raise ValueError('must be a number of processes, 0 or more, or "auto"')
    return value


def _bind(value: str) -> str:
    """Empty stands for every address of this machine."""
    return value and _host(value)


AETitle = Annotated[str, AfterValidator(_ae_title)]
Sender = Annotated[str, AfterValidator(_sender)]
File = Annotated[Path, AfterValidator(_path)]
Network = Annotated[str, AfterValidator(_network)]
Wait = Annotated[float, Field(gt=0, le=3600)]
"""Seconds; an hour is too long for anybody to wait here, and catches what was meant in milliseconds."""
Port = Annotated[int, Field(ge=1, le=65535)]
Pattern = Annotated[str, AfterValidator(_pattern)]
PeerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Host = Annotated[str, AfterValidator(_host)]
Bind = Annotated[str, AfterValidator(_bind)]
Readers = Annotated[NonNegativeInt | Literal["auto"], BeforeValidator(_readers)]
