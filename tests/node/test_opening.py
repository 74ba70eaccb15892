"""What opening makes, and what it must not: commands beside the service, disks that are away, other schemas."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from made import Made, changed, ct, encoded, grey_series, made_node, undeclared

from dicom_node.cli import main
from dicom_node.configfile import load
from dicom_node.errors import NodeError, StoreUnavailable
from dicom_node.received import data_set_in
from dicom_node.serving import service
from dicom_node.serving.service import Service
from dicom_node.store import opening, schema
from dicom_node.store.database import Database
from dicom_node.store.results import Version
from dicom_node.store.tables import instances, series


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[node]\nmin_free_mib = 0\n")
    return path


def run(config: Path, *command: str) -> tuple[int, str]:
    ran = CliRunner().invoke(main, [*command, "--config", str(config)])
    assert ran.exception is None or isinstance(ran.exception, SystemExit)
    return ran.exit_code, ran.output


def filled(folder: Path) -> Made:
    node = made_node(folder)
    node.accept(*grey_series(3))
    return node


def at_revision(node: Made, revision: str) -> None:
    with node.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def older(node: Made, revision: str) -> None:
    """Turn its database into one that a node of that schema left."""
    at_revision(node, revision)
    with node.database.write() as connection:
        for row in connection.execute(sa.select(instances.c.id, instances.c.file)).all():
            sha256 = hashlib.sha256(data_set_in(node.spool.read(row.file))).hexdigest()
            connection.execute(instances.update().where(instances.c.id == row.id).values(digest=sha256))
        connection.execute(sa.text("ALTER TABLE instances RENAME COLUMN digest TO sha256"))
        if revision <= "0003":
            connection.execute(sa.text("ALTER TABLE series DROP COLUMN passed_over_for"))


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("show", "1"),
        ("retry", "1"),
        ("release", "1"),
        ("report", "show", "1"),
        ("forget", "--patient", "1", "--yes"),
    ],
)
def test_no_command_makes_a_node_where_none_is(config: Path, command: tuple[str, ...]) -> None:
    code, said = run(config, *command)
    assert code == 1
    assert "no node has run here" in said
    assert not (config.parent / "data").exists()


def test_for_monitoring_a_node_that_is_not_there_is_an_alarm(config: Path) -> None:
    assert run(config, "status", "--check")[0] == 2


def test_no_command_upgrades_what_an_older_service_may_be_using(config: Path) -> None:
    node = filled(config.parent)
    at_revision(node, "0001")
    code, said = run(config, "show", "1")
    assert code == 1
    assert "made by an older dicom-node" in said
    with node.database.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0001"
    assert run(config, "check-config")[0] == 0


def test_a_folder_of_another_user_is_said_to_be_so(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(config.parent)

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Database, "missing_file", denied)
    code, said = run(config, "status")
    assert code == 1
    assert "cannot be used: Permission denied; run this as its owner" in said


def test_what_an_older_node_passed_over_is_looked_after_by_a_newer_one(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(*grey_series(10, series="1.2.3.1"), *grey_series(10, series="1.2.3.2"))
    node.tick_after(31)
    before = [row.passed_over_for for row in node.rows(series)]
    assert before == [None, 1]
    older(node, "0003")
    schema.upgrade(node.database)
    assert [row.passed_over_for for row in node.rows(series)] == before


def test_what_an_older_node_acknowledged_is_known_to_a_newer_one(tmp_path: Path) -> None:
    """Its digests are SHA-256."""
    node = made_node(tmp_path)
    node.accept(ct(1), ct(2), ct(3))
    older(node, "0004")
    schema.upgrade(node.database)
    assert {len(row.digest) for row in node.rows(instances)} == {64}
    lost, damaged, _ = (row.file for row in node.rows(instances))
    node.spool.remove(lost)
    path = node.spool.path(damaged)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert node.accept(ct(1), ct(2), ct(3)) == [0, 0, 0]
    kept = node.rows(instances)
    assert [row.current for row in kept] == [True, True, True]
    assert [node.spool.read(row.file).endswith(encoded(ct(n))) for n, row in enumerate(kept, 1)] == [True, True, True]
    assert node.files() == {row.file for row in kept}
    node.accept(changed(ct(3), PixelData=bytes(512)))
    assert node.rows(series)[0].state == "failed"


def test_a_name_that_an_older_node_read_otherwise_agrees_with_itself_once_it_comes_again(config: Path) -> None:
    """What disagrees only in how it was read could not be put right by a person otherwise."""
    node = made_node(config.parent)
    images = [ct(number, **undeclared(PatientName="Müller^Änne")) for number in range(1, 11)]
    node.accept(*images[:4])
    with node.database.write() as connection:
        connection.execute(instances.update().values(identity="as it was read", patient="as it was read"))
    node.accept(*images[4:])
    node.tick_after(31)
    assert node.rows(series)[0].state == "failed"
    assert node.accept(*images) == [0] * 10
    assert run(config, "retry", "1")[0] == 0
    node.tick_after(31)
    assert node.rows(series)[0].state == "complete"


def test_a_service_that_may_not_read_its_folder_says_so_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Database, "missing_file", denied)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(StoreUnavailable, match="cannot be used: Permission denied; run this as its owner"):
        Service(load(config), Version("m", "p")).run()


def test_a_second_service_upgrades_nothing_under_the_first(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    node = filled(config.parent)
    at_revision(node, "0001")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with (config.parent / "data" / "serve.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(NodeError, match="another dicom-node serve is running"):
            Service(load(config), Version("m", "p")).run()
    with node.database.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0001"


def test_two_services_with_folders_of_their_own_do_not_share_a_database(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    url = f'database_url = "sqlite:///{config.parent / "shared" / "node.sqlite"}"'
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    refused: list[str] = []

    def a_second_one(*_: object) -> None:
        other = config.with_name("other.toml")
        other.write_text(f'[node]\ndata_folder = "{config.parent / "other"}"\n{url}\n')
        with pytest.raises(NodeError, match="another dicom-node serve is running") as caught:
            Service(load(other), Version("m", "p")).run()
        refused.append(str(caught.value))

    monkeypatch.setattr(Service, "_serve", a_second_one)
    config.write_text(f'[node]\ndata_folder = "{config.parent / "data"}"\n{url}\n')
    Service(load(config), Version("m", "p")).run()
    assert len(refused) == 1
    assert "node.sqlite" in refused[0]


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "from before spools had UIDs"])
def test_a_spool_whose_disk_is_away_is_no_empty_spool(config: Path, bound: bool) -> None:
    node = filled(config.parent)
    if bound:
        opening.open_store(load(config))[0].close()
    away = node.spool.folder.rename(config.parent / "away")
    node.spool.folder.mkdir()  # where it is mounted
    code, said = run(config, "forget", "--patient", "X", "--yes")
    assert code == 1
    assert "is its disk mounted?" in said
    code, said = run(config, "status", "--check")
    assert code == 2
    with pytest.raises(StoreUnavailable, match="is its disk mounted"):
        opening.open_store(load(config))
    assert not list(node.spool.folder.iterdir())
    node.spool.folder.rmdir()
    away.rename(node.spool.folder)
    opening.open_store(load(config))[0].close()


def test_a_spool_that_is_lost_can_be_begun_anew(config: Path) -> None:
    opening.open_store(load(config))[0].close()
    folder = config.parent / "data" / "spool"
    shutil.rmtree(folder)
    (folder / "00").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="If its files are lost for good") as told:
        opening.open_store(load(config))
    said = re.search(r"echo (\S+) > (\S+), and", str(told.value))
    assert said is not None
    Path(said[2]).write_text(f"{said[1]}\n")
    _, spool = opening.open_store(load(config))
    assert spool.keep(b"x")


def test_a_spool_keeps_its_uid_and_shows_it_to_its_owner_alone(config: Path) -> None:
    made = [opening.open_store(load(config)) for _ in range(2)]
    assert len({database.spool_uid() for database, _ in made} | {spool.uid() for _, spool in made}) == 1
    assert (config.parent / "data" / "spool" / "spool.uid").stat().st_mode & 0o777 == 0o600


def test_nodes_with_spools_of_their_own_do_not_share_a_database(config: Path, tmp_path: Path) -> None:
    """Each would find the images of the other lost, and report on them so."""
    url = f'database_url = "sqlite:///{tmp_path / "shared.sqlite"}"'
    second = tmp_path / "second.toml"
    for one in (config, second):
        one.write_text(f'[node]\nmin_free_mib = 0\ndata_folder = "{one.stem}"\n{url}\n')
    opening.open_store(load(config))[0].close()
    for _ in range(2):  # nor when it is tried again
        with pytest.raises(StoreUnavailable, match="Nodes that share a database share the spool"):
            opening.open_store(load(second))
    code, said = run(second, "retry", "1")
    assert code == 1
    assert "is not the spool of this database" in said


def test_a_spool_whose_database_was_lost_goes_with_the_new_one(config: Path) -> None:
    first, spool = opening.open_store(load(config))
    first.close()
    for file in (config.parent / "data").glob("node.sqlite*"):
        file.unlink()
    assert opening.open_store(load(config))[0].spool_uid() == spool.uid()


def test_a_spool_whose_uid_was_cut_off_by_a_full_disk_gets_one(config: Path) -> None:
    """An empty one would be that of every other spool to which this happened."""
    (config.parent / "data" / "spool").mkdir(parents=True)
    (config.parent / "data" / "spool" / "spool.uid").write_text("\n")
    database, spool = opening.open_store(load(config))
    assert database.spool_uid() == spool.uid() != ""


def test_the_state_of_a_node_is_told_without_its_spool(config: Path) -> None:
    node = filled(config.parent)
    shutil.rmtree(node.spool.folder)
    code, said = run(config, "status", "--check")
    assert code == 2
    assert "nothing can be received: the spool cannot be reached: No such file or directory" in " ".join(said.split())
    assert "free disk: unknown" in said
    assert run(config, "show", "1")[0] == 0


def test_what_serve_could_not_use_is_told_before(config: Path) -> None:
    node = filled(config.parent)
    node.database.close()
    assert run(config, "check-config")[0] == 0
    at_revision(node, "9999")
    assert "newer dicom-node" in run(config, "check-config")[1]
    node.database.close()
    (config.parent / "data" / "node.sqlite").write_bytes(b"this was a database once" * 400)
    code, said = run(config, "check-config")
    assert code == 1
    assert "the database file is damaged" in said
    (config.parent / "data" / "node.sqlite").unlink()
    (config.parent / "data" / "node.sqlite").mkdir()
    assert "must be a writable file" in run(config, "check-config")[1]
    config.write_text("[node]\nmin_free_mib = 99999999\n")
    shutil.rmtree(config.parent / "data")
    assert "node.min_free_mib reserves 99999999" in run(config, "check-config")[1]


def test_what_serve_locks_is_its_users_alone(config: Path) -> None:
    before = os.umask(0o022)
    try:
        service._only_one(load(config)).close()
    finally:
        os.umask(before)
    assert (config.parent / "data" / "serve.lock").stat().st_mode & 0o777 == 0o600
