"""DICOM over TLS into the node: who must prove what, which versions are spoken, and files that change under way."""

from __future__ import annotations

import contextlib
import logging
import select
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made import ct, encoded, part10, peer
from pydantic import ValidationError
from receiving import listening
from test_tls import certificate

from dicom_node.config import NodeSection, Peer
from dicom_node.configfile import load
from dicom_node.errors import ConfigError, PeerUnreachable
from dicom_node.network import admission, requestor, scp, scu
from dicom_node.network.tls import ServerTls, TlsFiles
from dicom_node.received import Received
from dicom_node.status import StoreStatus

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Certificate and key of each party."""
    folder = tmp_path_factory.mktemp("certificates")
    return {name: certificate(folder, name, "127.0.0.1") for name in ("node", "renewed", "scanner", "stranger")}


def files(made: dict[str, tuple[Path, Path]], clients: Any = "required") -> TlsFiles:
    return TlsFiles(*made["node"], authority=made["scanner"][0], clients=clients)


def sender(port: int, made: dict[str, tuple[Path, Path]], shows: str | None = "scanner", node: str = "node") -> Peer:
    """The node as `shows` sees it."""
    shown = {"tls_certificate": made[shows][0], "tls_key": made[shows][1]} if shows else {}
    return peer(port, ae_title="DICOM_NODE", tls=True, tls_ca=made[node][0], **shown)


@pytest.mark.usefixtures("either_loop")
def test_a_client_that_proves_who_it_is_is_served(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    kept: list[Received] = []

    def accept(got: Received) -> StoreStatus:
        kept.append(got)
        return StoreStatus.SUCCESS

    path = tmp_path / "1.dcm"
    path.write_bytes(part10(ct(1)))
    with listening(accept, tls=files(made)) as port:
        sent = list(scu.send(sender(port, made), "CT1", [scu.outgoing(path)]))
    assert [one.status for one in sent] == [0]
    assert [one.data_set for one in kept] == [encoded(ct(1))]


@pytest.mark.parametrize(("clients", "shows", "served"), [
    ("required", "stranger", False),
    ("required", None, False),
    ("optional", None, True),
    ("optional", "scanner", True),
    ("optional", "stranger", False),
    ("none", None, True),
])  # fmt: skip
def test_what_a_client_must_show_is_chosen(
    made: dict[str, tuple[Path, Path]], clients: str, shows: str | None, served: bool
) -> None:
    with listening(tls=files(made, clients)) as port:
        if served:
            assert scu.echo(sender(port, made, shows), "CT1") > 0
        else:
            with pytest.raises(PeerUnreachable):
                scu.echo(sender(port, made, shows), "CT1")


def test_nobody_falls_back_to_plain_dicom(made: dict[str, tuple[Path, Path]]) -> None:
    with listening(tls=files(made, "none")) as port, pytest.raises(PeerUnreachable):
        scu.echo(peer(port, ae_title="DICOM_NODE"), "CT1")


@pytest.mark.parametrize(("version", "suites"), [
    (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    (ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0"),  # no forward secrecy
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_what_the_profile_leaves_out_is_not_spoken(
    made: dict[str, tuple[Path, Path]], version: ssl.TLSVersion, suites: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(suites)
    context.minimum_version = context.maximum_version = version
    with (
        listening(tls=files(made, "none")) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain)


def test_the_suites_are_those_that_the_conformance_statement_names(made: dict[str, tuple[Path, Path]]) -> None:
    ours = {one["name"] for one in ServerTls(files(made)).context().get_ciphers() if one["protocol"] == "TLSv1.2"}
    ciphers = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    assert ours == {f"ECDHE-{keys}-{cipher}" for keys in ("RSA", "ECDSA") for cipher in ciphers}
    offered = requestor.tls_of(peer(104, tls=True)).get_ciphers()
    assert {one["name"] for one in offered if one["protocol"] == "TLSv1.2"} == ours
    assert "TLSv1.3" in {one["protocol"] for one in offered}


def test_files_that_are_replaced_count_from_the_next_connection_and_bad_ones_never(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = tmp_path / "now.pem", tmp_path / "now.key"

    def place(name: str) -> None:
        for source, target in zip(made[name], now, strict=True):
            shutil.copy(source, target)

    place("node")
    with caplog.at_level(logging.INFO), listening(tls=TlsFiles(*now, authority=None, clients="none")) as port:
        assert scu.echo(sender(port, made, None), "CT1") > 0
        place("renewed")
        assert scu.echo(sender(port, made, None, node="renewed"), "CT1") > 0
        now[1].write_text("no key at all")
        assert scu.echo(sender(port, made, None, node="renewed"), "CT1") > 0
        now[0].unlink()
        assert scu.echo(sender(port, made, None, node="renewed"), "CT1") > 0
    told = [record.getMessage().split()[0] for record in caplog.records if "tls_files" in record.getMessage()]
    assert told == ["tls_files_renewed", "tls_files_kept", "tls_files_kept"]


def test_a_node_does_not_start_with_files_it_cannot_use(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    wrong = TlsFiles(made["node"][0], made["stranger"][1], authority=None, clients="none")
    with pytest.raises(ConfigError, match=r"node\.pem"), listening(tls=wrong):
        pass


def test_an_encrypted_key_is_refused_and_not_asked_about(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", made["node"][1], "-out", locked, "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    with (
        pytest.raises(ConfigError, match="pass phrase"),
        listening(tls=TlsFiles(made["node"][0], locked, authority=None, clients="none")),
    ):
        pass


def test_a_hundred_clients_that_never_shake_hands_shut_nobody_out(made: dict[str, tuple[Path, Path]]) -> None:
    with listening(tls=files(made), request_s=120.0) as port, contextlib.ExitStack() as stack:
        mute = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        mute[-1].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert scu.echo(sender(port, made), "CT1") > 0
        ended, _, _ = select.select(mute, [], [], 0)
        assert len(mute) - len(ended) >= admission.MAX_WAITING_PER_ADDRESS - 2  # they were not waited out


def test_a_handshake_that_does_not_come_to_its_end_is_not_waited_for(made: dict[str, tuple[Path, Path]]) -> None:
    with listening(tls=files(made), request_s=0.5) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01")
        slow.settimeout(15.0)
        assert slow.recv(1) == b""


@pytest.mark.usefixtures("either_loop")
@pytest.mark.peer
@pytest.mark.skipif(shutil.which("storescu") is None, reason="needs DCMTK's storescu")
def test_dcmtk_sends_by_its_bcp_195_profile(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    kept: list[Received] = []

    def accept(got: Received) -> StoreStatus:
        kept.append(got)
        return StoreStatus.SUCCESS

    (tmp_path / "1.dcm").write_bytes(part10(ct(1)))
    with listening(accept, tls=files(made)) as port:
        certificate, key = made["scanner"]
        command = ["storescu", "+tls", key, certificate, "+cf", made["node"][0], "-aet", "CT1", "-aec", "DICOM_NODE"]
        command += ["127.0.0.1", str(port), tmp_path / "1.dcm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [one.data_set for one in kept] == [encoded(ct(1))]


def test_a_configuration_of_tls_that_says_too_little_is_refused(tmp_path: Path) -> None:
    one = Path("one.pem")
    for given, complaint in (
        ({"tls_certificate": one}, "no effect without tls"),
        ({"tls": True}, "needs tls_certificate and tls_key"),
        ({"tls": True, "tls_certificate": one, "tls_key": one}, "needs tls_ca"),
    ):
        with pytest.raises(ValidationError, match=complaint):
            NodeSection(**given)
    content = '[node]\ntls = true\ntls_certificate = "a.pem"\ntls_key = "a.key"\ntls_clients = "none"\n'
    (tmp_path / "config.toml").write_text(content)
    rules = scp.rules_of(load(tmp_path / "config.toml"))
    assert rules.tls == TlsFiles(tmp_path / "a.pem", tmp_path / "a.key", None, "none")
