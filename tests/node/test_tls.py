"""Reports travel over TLS where the destination asks for it: verified, and never fallen back from."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from made import made_node, peer
from pydantic import ValidationError
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.cli import main
from dicom_node.config import Peer
from dicom_node.configfile import load
from dicom_node.errors import PeerUnreachable
from dicom_node.network import scu, tls
from dicom_node.store import heartbeats

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)


def certificate(folder: Path, name: str, host: str) -> tuple[Path, Path]:
    """A self-signed certificate for an IP address, and its key."""
    made = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{host}"]
    subprocess.run([*command, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    return made


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "node", "127.0.0.2")


@pytest.fixture
def pacs(tmp_path: Path, own: tuple[Path, Path], request: pytest.FixtureRequest) -> Iterator[tuple[int, Path]]:
    """A peer that speaks TLS alone and asks for the node's certificate; its port and its own certificate. As a
    parameter: its suites, of TLS 1.2, the preferred first."""
    shown, key = certificate(tmp_path, "pacs", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(own[0])
    if suites := getattr(request, "param", None):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(suites)
    ae = AE("PACS")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
    assert server is not None
    yield server.server_address[1], shown
    ae.shutdown()


def test_a_peer_that_proves_who_it_is_is_spoken_to(pacs: tuple[int, Path], own: tuple[Path, Path]) -> None:
    port, authority = pacs
    trusted = peer(port, tls=True, tls_ca=authority, tls_certificate=own[0], tls_key=own[1])
    assert scu.echo(trusted, "NODE") > 0


def test_a_peer_that_does_not_prove_who_it_is_gets_nothing(pacs: tuple[int, Path], own: tuple[Path, Path]) -> None:
    port, _ = pacs
    with pytest.raises(PeerUnreachable, match=r"not trusted: self.signed certificate; see peers.tls_ca"):
        scu.echo(peer(port, tls=True, tls_ca=own[0], tls_certificate=own[0], tls_key=own[1]), "NODE")


def test_the_name_in_the_certificate_must_be_the_hosts(pacs: tuple[int, Path], own: tuple[Path, Path]) -> None:
    port, authority = pacs
    elsewhere = peer(port, host="localhost", tls=True, tls_ca=authority, tls_certificate=own[0], tls_key=own[1])
    with pytest.raises(PeerUnreachable, match="not trusted: Hostname mismatch"):
        scu.echo(elsewhere, "NODE")


def test_a_peer_that_speaks_no_tls_or_does_not_trust_us_is_told_so(
    pacs: tuple[int, Path], own: tuple[Path, Path]
) -> None:
    port, authority = pacs
    with pytest.raises(PeerUnreachable, match="does it accept this node's certificate"):
        scu.echo(peer(port, tls=True, tls_ca=authority), "NODE")
    with pytest.raises(PeerUnreachable, match="is it a DICOM port without TLS"):
        scu.echo(peer(port), "NODE")


OLDER = "ECDHE-ECDSA-AES256-SHA384"


@pytest.mark.parametrize("pacs", [f"{OLDER}:ECDHE-ECDSA-AES128-GCM-SHA256"], indirect=True)
def test_a_peer_cannot_choose_a_weaker_suite_though_it_has_one_of_ours(
    pacs: tuple[int, Path], own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, authority = pacs
    chosen: list[str] = []
    shake_hands = ssl.SSLSocket.do_handshake

    def noted(self: ssl.SSLSocket, *given: object) -> None:
        shake_hands(self, *given)  # type: ignore[arg-type]
        chosen.append((self.cipher() or ("",))[0])

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", noted)
    assert scu.echo(peer(port, tls=True, tls_ca=authority, tls_certificate=own[0], tls_key=own[1]), "NODE") > 0
    assert set(chosen) == {"ECDHE-ECDSA-AES128-GCM-SHA256"}


@pytest.mark.parametrize("pacs", [OLDER], indirect=True)
def test_of_a_peer_that_has_none_of_our_suites_it_is_said(pacs: tuple[int, Path], own: tuple[Path, Path]) -> None:
    port, authority = pacs
    with pytest.raises(PeerUnreachable, match="has it no suite of this node's"):
        scu.echo(peer(port, tls=True, tls_ca=authority, tls_certificate=own[0], tls_key=own[1]), "NODE")


@pytest.mark.parametrize(
    ("days", "said"), [(400, None), (13, "certificate expires in 13 days"), (-1, "certificate has expired")]
)
def test_a_certificate_of_this_node_that_is_nearly_over_is_told(
    own: tuple[Path, Path], tmp_path: Path, days: int, said: str | None
) -> None:
    again = tmp_path / "again.pem"
    command = ["openssl", "x509", "-in", own[0], "-signkey", own[1], "-days", str(days), "-out", again]
    subprocess.run(command, check=True, capture_output=True)
    told = tls.running_out(again, own[1], now=time.time())
    assert told == (said and f"{again}: {said}")
    (tmp_path / "config.toml").write_text(
        f'[node]\ntls = true\ntls_certificate = "{again}"\ntls_key = "{own[1]}"\ntls_clients = "none"\n'
    )
    ran = CliRunner().invoke(main, ["check-config", "--config", str(tmp_path / "config.toml")])
    assert ran.exit_code == 0
    assert ("but " in ran.output and "certificate " in ran.output.partition("\nbut ")[2]) or said is None
    node = made_node(tmp_path)
    with node.database.write() as connection:
        heartbeats.beat(connection, "1-1", started_at=time.time(), now=time.time())
    (tmp_path / "config.toml").write_text((tmp_path / "config.toml").read_text() + "min_free_mib = 0\n")
    ran = CliRunner().invoke(main, ["status", "--check", "--json", "--config", str(tmp_path / "config.toml")])
    assert (ran.exit_code, json.loads(ran.output)["wrong"]) == ((0, []) if said is None else (1, [f"{again}: {said}"]))


def test_the_end_of_a_certificate_is_told_too_where_the_machine_has_no_tls_1_3(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    """As its administrators may set for all programs; `status --check` ended with a traceback there."""
    settings = tmp_path / "openssl.cnf"
    settings.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    program = (
        "import sys; from pathlib import Path; from dicom_node.network import tls;"
        "print(tls.running_out(*map(Path, sys.argv[1:]), now=32503680000.0))"
    )
    command = [sys.executable, "-c", program, *own]
    ran = subprocess.run(
        command, env=os.environ | {"OPENSSL_CONF": str(settings)}, capture_output=True, text=True, check=True
    )
    assert "certificate expires in" in ran.stdout


def test_files_that_cannot_be_used_are_named_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(PeerUnreachable, match="TLS files"):
        scu.echo(peer(104, tls=True, tls_ca=tmp_path / "missing.pem"), "NODE")


def test_a_configuration_that_would_send_in_clear_unknowingly_is_refused() -> None:
    given = {"name": "PACS1", "host": "pacs", "port": 104, "ae_title": "PACS"}
    with pytest.raises(ValidationError, match="no effect without tls"):
        Peer(**given, tls_ca=Path("ca.pem"))
    with pytest.raises(ValidationError, match="given together"):
        Peer(**given, tls=True, tls_certificate=Path("node.pem"))


def test_tls_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    content = '[[peers]]\nname = "P"\nhost = "pacs"\nport = 104\nae_title = "PACS"\ntls = true\ntls_ca = "ca.pem"\n'
    (tmp_path / "config.toml").write_text(content)
    assert load(tmp_path / "config.toml").peers[0].tls_ca == tmp_path / "ca.pem"
