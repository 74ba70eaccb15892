"""What may be set: the sections of config.toml with their defaults and bounds, checked as a whole, and frozen.

The shipped config.toml lists and explains every key; `configfile` reads one. What single values may be: `configvalues`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dicom_node.configvalues import (
    ANYBODY,
    AETitle,
    Bind,
    File,
    Host,
    Network,
    Pattern,
    PeerName,
    Port,
    Readers,
    Sender,
    Wait,
    place,
)
from dicom_node.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


TLS_FILES = ("tls_ca", "tls_certificate", "tls_key")


class NodeSection(Section):
    ae_title: AETitle = "DICOM_NODE"
    bind: Bind = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    allowed_senders: tuple[Sender, ...] = ()
    data_folder: File = Path("data")
    database_url: str = ""
    min_free_mib: NonNegativeInt = 1024
    max_associations: PositiveInt = 64
    max_associations_per_address: PositiveInt = 32
    max_object_mib: PositiveInt = 1024
    request_timeout_s: Wait = 10.0
    allowed_addresses: tuple[Network, ...] = ()
    echo_from: Literal["allowed", "anyone"] = "allowed"
    receive_loop: Literal["own", "pynetdicom"] = "own"
    tls: bool = False
    tls_certificate: File | None = None
    tls_key: File | None = None
    tls_ca: File | None = None
    tls_clients: Literal["required", "optional", "none"] = "required"

    @model_validator(mode="after")
    def _check_tls(self) -> NodeSection:
        if not self.tls:
            if self.tls_certificate or self.tls_key or self.tls_ca:
                raise ValueError("tls_certificate, tls_key and tls_ca have no effect without tls = true")
            return self
        if self.tls_certificate is None or self.tls_key is None:
            raise ValueError("tls = true needs tls_certificate and tls_key, which this node presents to its clients")
        if self.tls_ca is None and self.tls_clients != "none":
            raise ValueError(
                f'tls_clients = "{self.tls_clients}" needs tls_ca, the authority that signed their certificates'
            )
        return self


class Peer(Section):
    name: PeerName
    host: Host
    port: Port
    ae_title: AETitle
    results: bool = True
    objects: tuple[Literal["report", "picture", "document", "key_objects"], ...] = ("report", "picture")
    sr_class: Literal["comprehensive-3d", "comprehensive", "enhanced"] = "comprehensive-3d"
    only_positive: bool = False
    commitment: bool = False
    withdraw_by: Literal["nothing", "quality", "patient-safety"] = "nothing"
    timeout_s: Wait = 30.0
    tls: bool = False
    tls_ca: File | None = None
    tls_certificate: File | None = None
    tls_key: File | None = None

    @model_validator(mode="after")
    def _check_tls(self) -> Peer:
        if not self.tls and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError("tls_ca, tls_certificate and tls_key have no effect without tls = true")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together or not at all")
        return self

    @property
    def address(self) -> tuple[str, int]:
        return place(self.host), self.port

    @model_validator(mode="after")
    def _check_objects(self) -> Peer:
        if self.results and not self.objects:
            raise ValueError("objects is empty, so the peer would get nothing; to send it nothing, set results = false")
        if len(set(self.objects)) < len(self.objects):
            raise ValueError("objects names one kind twice")
        return self


class Backlog(Section):
    senders: tuple[AETitle, ...] = ()
    live_senders: tuple[AETitle, ...] = ()
    older_than_h: PositiveFloat = 24.0

    @model_validator(mode="after")
    def _check_senders(self) -> Backlog:
        both = sorted({*self.senders} & {*self.live_senders})
        if both:
            raise ValueError(f"{both[0]!r} is in both senders and live_senders; it can only be in one")
        return self


class Completion(Section):
    settle_s: Wait = 2.0
    silence_s: Wait = 30.0
    min_cover_mm: PositiveFloat = 100.0
    reopen_wait_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    count_from: str = ""


class Eligibility(Section):
    min_slices: PositiveInt = 8
    min_thickness_mm: NonNegativeFloat = 0.4
    max_thickness_mm: PositiveFloat = 10.0
    preferred_thickness_mm: PositiveFloat = 5.0
    max_tilt_deg: Annotated[float, Field(gt=0, le=60)] = 40.0
    contrast: bool = False
    min_age_years: Annotated[int, Field(ge=0, le=89)] = 0
    refused_kernels: tuple[Pattern, ...] = (
        *(".*BONE.*", ".*EDGE.*", ".*LUNG.*", ".*DETAIL.*", "ULTRA.{0,2}", "(?!.*BRAIN).*SHARP.*"),
        r"[BCDHIJQSU][A-Z]?[5-9]\d.*",
        *("Y[A-F]", "E[A-D]?", "D", "L"),
        r"FC[358]\d.*",
    )
    refused_image_types: tuple[str, ...] = (
        *("LOCALIZER", "MIP", "MIN IP", "MAX IP", "PROJECTION IMAGE", "DOSE INFO", "SCREEN SAVE"),
        *("MAXIMUM", "MINIMUM", "SAMPLED", "DISTORTED"),  # the terms of Enhanced CT, PS3.3 C.8.16.1 and C.8.16.2
        *("SUBTRACTION", "DIVISION", "MULTIPLICATION", "MASKED", "STD DEVIATION", "QUANTITY"),
        *("PERFUSION", "DYNAMIC", "VPCT"),
        *("VMI", "MAT SPECIFIC", "MAT REMOVED", "MAT MODIFIED", "MAT FRACTIONAL", "MAT VALUE BASED"),  # C.8.2.1.1.1
        *("EFF ATOMIC NUM", "ELECTRON DENSITY", "IODINE", "VNC", "FUSION", "3DANGIO"),
    )
    refused_body_parts: tuple[Pattern, ...] = (
        *("CHEST", "ABDOMEN.*", "PELVIS", "(?!.*(HEAD|BRAIN|SKULL)).*SPINE"),
        *("EXTREMITY", "HEART", "KNEE", "FOOT", "HAND"),
    )


class Model(Section):
    checkpoint: File | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    threads: NonNegativeInt = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    readers: Readers = "auto"
    brace_removal: Literal["paper", "robust"] = "robust"


class Results(Section):
    title: Literal["viewer", "imaging-measurement-report"] = "viewer"
    series_number: Annotated[int, Field(ge=1, le=99990)] = 9001  # after every series of a scanner
    retry_first_s: Wait = 10.0
    retry_longest_s: PositiveFloat = 600.0
    commitment_wait_s: PositiveFloat = 3600.0
    tries: Annotated[int, Field(ge=1, le=10)] = 3
    lease_s: Wait = 60.0

    def wait_s(self, tries: int, chance: float) -> float:
        """The wait after `tries` earlier tries: twice as long each time, up to the longest.

        `chance`, 0..1, takes up to a quarter off, so that what failed together is not retried in step.
        """
        doubled = self.retry_first_s * 2.0 ** min(tries, 30)
        return min(doubled, self.retry_longest_s) * (1.0 - 0.25 * chance)


class Commitment(Section):
    accept: bool = False


class Retention(Section):
    keep_days: PositiveFloat = 30.0


class Monitoring(Section):
    silent_h: NonNegativeFloat = 0.0


class Logging(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section):
    node: NodeSection = NodeSection()
    peers: tuple[Peer, ...] = ()
    backlog: Backlog = Backlog()
    completion: Completion = Completion()
    eligibility: Eligibility = Eligibility()
    model: Model = Model()
    results: Results = Results()
    commitment: Commitment = Commitment()
    retention: Retention = Retention()
    monitoring: Monitoring = Monitoring()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _check_across(self) -> Config:
        names = [peer.name for peer in self.peers]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"peers: the name {min(doubled)!r} is used twice; each peer needs its own")
        if self.completion.count_from and self.completion.count_from not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"completion.count_from = {self.completion.count_from!r} is not a peer; known: {known}")
        for peer in self.destinations:
            if self._is_this_node(peer):
                raise ValueError(
                    f"peers: {peer.name} ({peer.host}:{peer.port}) is this node: results would be delivered to nobody; "
                    "correct its host and port, or set results = false"
                )
        if self.completion.silence_s < self.completion.settle_s:
            raise ValueError(
                f"completion.silence_s = {self.completion.silence_s:g} must not be shorter than "
                f"completion.settle_s = {self.completion.settle_s:g}"
            )
        if self.eligibility.min_thickness_mm > self.eligibility.max_thickness_mm:
            raise ValueError("eligibility.min_thickness_mm must not exceed eligibility.max_thickness_mm")
        return self

    @property
    def destinations(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self.peers if peer.results)

    @property
    def senders(self) -> frozenset[str]:
        """Calling AE titles that may store here, or `ANYBODY` among them."""
        return frozenset({self.node.ae_title, *self.node.allowed_senders, *(peer.ae_title for peer in self.peers)})

    @property
    def database_url(self) -> str:
        return self.node.database_url or f"sqlite:///{self.node.data_folder / 'node.sqlite'}"

    def shown_certificates(self) -> set[tuple[Path, Path]]:
        """What this node presents to its clients and to its peers: pairs of certificate file and key file."""
        pairs = [(self.node.tls_certificate, self.node.tls_key)]
        pairs += [(peer.tls_certificate, peer.tls_key) for peer in self.peers]
        return {(certificate, key) for certificate, key in pairs if certificate is not None and key is not None}

    def gaps(self) -> list[str]:
        """What is allowed, but may not be intended."""
        said = []
        if not self.destinations:
            said.append("no peer is configured with results = true: reports are made but sent to nobody")
        said += [
            f"{peer.name} gets positive results only: no report there may mean absent, or not looked at"
            for peer in self.destinations
            if peer.only_positive
        ]
        said += [
            f"{peer.name} has the AE title of this node: if it is this node, results are delivered to nobody"
            for peer in self.destinations
            if peer.ae_title == self.node.ae_title
        ]
        said += [sentence for pair in combinations(self.peers, 2) for sentence in self._confused(*pair)]
        if not self.node.allowed_senders and not self.peers:
            said.append("node.allowed_senders is empty and there are no peers: every sender is rejected")
        said += [
            f"{title} in node.allowed_senders is a title like any other: only {ANYBODY} alone stands for anybody"
            for title in self.node.allowed_senders
            if ANYBODY in title and title != ANYBODY
        ]
        return [*said, *self._never_sent()]

    def _never_sent(self) -> Iterator[str]:
        """Titles that were perhaps spelled otherwise elsewhere: case matters."""
        for key, titles in (("senders", self.backlog.senders), ("live_senders", self.backlog.live_senders)):
            for title in titles:
                if not {title, ANYBODY} & self.senders:
                    yield f"backlog.{key} names {title}, which may not send: is it spelled so in node.allowed_senders?"

    def _is_this_node(self, peer: Peer) -> bool:
        """Whether it certainly is: by what is written here, as names may be resolved otherwise tomorrow."""
        bind, (host, port) = place(self.node.bind), peer.address
        if bind in ("0.0.0.0", "::", ""):
            return port == self.node.port and (host == "::1" or host.startswith("127."))
        return (host, port) == (bind, self.node.port)

    def _confused(self, one: Peer, other: Peer) -> Iterator[str]:
        """What is odd about two peers of one AE title. Several AE titles at one address are not: a PACS has them."""
        if one.ae_title != other.ae_title:
            return
        title = f"one AE title, {one.ae_title}"
        if one.address == other.address:
            twice = set(one.objects) & set(other.objects) if one.results and other.results else ()
            if twice:
                yield f"{one.name} and {other.name} have one address and {title}: results go there twice"
            return
        if one.results and other.results:
            yield f"{one.name} and {other.name} have {title}, at two addresses: is that meant?"
        if self.commitment.accept:
            answered = next(peer.name for peer in self.peers if peer.ae_title == one.ae_title)
            yield f"{one.name} and {other.name} have {title}: {answered} gets the answer to each request for commitment"

    def peer(self, name: str) -> Peer:
        for peer in self.peers:
            if peer.name == name:
                return peer
        known = ", ".join(p.name for p in self.peers) or "none"
        raise ConfigError(f"no peer is named {name!r} in the configuration; known: {known}")
