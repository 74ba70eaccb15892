"""Commands as a person types them: quick to answer, clear when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import ct, made_node, part10
from receiving import listening
from untrained import untrained_checkpoint

from dicom_node.cli import main
from dicom_node.configfile import load
from dicom_node.network.stand_in import StandInPacs
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.store.opening import open_store
from dicom_node.store.tables import instances, series

HEAVY = (
    "torch",
    "timm",
    "torchvision",
    "skimage",
    "scipy",
    "highdicom",
    "pynetdicom",
    "pydicom",
    "sqlalchemy",
    "train",
)


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in ran.stdout.split()}


def test_help_loads_nothing_heavy():
    loaded = modules_after("import dicom_node.cli")
    assert "click" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy", "pydantic", "rich"})


def test_importing_dtvit_loads_no_torch():
    assert modules_after("import dtvit.findings, dtvit.checkpoint").isdisjoint({"torch", "timm", "pydicom"})


def test_the_receiver_process_loads_no_torch():
    loaded = modules_after("import dicom_node.serving.service, dicom_node.offline, dicom_node.working.worker")
    assert loaded.isdisjoint({"torch", "timm", "torchvision", "train"})


def test_the_service_starts_without_what_draws_and_computes():
    loaded = modules_after("import dicom_node.serving.service, dicom_node.cli.running, dtvit.preprocess")
    assert loaded.isdisjoint({*HEAVY, "matplotlib"} - {"pynetdicom", "pydicom", "sqlalchemy"})


def test_training_loads_no_dicom_and_no_pydantic():
    loaded = modules_after("import train.options, train.making.synthetic, train.run")
    assert loaded.isdisjoint({"pydicom", "pydantic", "sqlalchemy", "pynetdicom", "highdicom", "dicom_node"})


@pytest.mark.parametrize("command", [*sorted(main.commands), "model info"])
def test_every_command_explains_itself(command: str):
    shown = CliRunner().invoke(main, [*command.split(), "--help"])
    assert shown.exit_code == 0
    first_sentence = shown.output.split("\n\n")[1].strip()
    assert len(first_sentence) > 10


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    return invoked(*arguments, "--config", str(folder / "config.toml"))


def invoked(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from dtvit.preprocess import preprocessing

    untrained_checkpoint(
        tmp_path / "model.safetensors", preprocessing=(preprocessing("paper"), preprocessing("robust"))
    )
    (tmp_path / "config.toml").write_text('[model]\ncheckpoint = "model.safetensors"\n[node]\nmin_free_mib = 0\n')
    return tmp_path


def test_check_config_tells_what_a_good_configuration_means(folder: Path):
    code, said = run(folder, "check-config")
    assert code == 0
    assert "DICOM_NODE on port 11112; results go to nobody" in said


def test_check_config_says_where_patients_results_will_go(folder: Path):
    """A name is what somebody called it: a copied block may have the test system's name and the PACS's address."""
    with (folder / "config.toml").open("a") as config:
        config.write('[[peers]]\nname = "TEST"\nhost = "192.0.2.10"\nport = 104\nae_title = "PACS"\n')
    code, said = run(folder, "check-config")
    assert code == 0
    assert "results go to TEST (PACS at 192.0.2.10:104);" in said


def test_a_wrong_key_is_named_with_the_nearest_known_one(folder: Path):
    (folder / "config.toml").write_text("[node]\nae_titel = 'X'\n")
    code, said = run(folder, "check-config")
    assert code == 1
    assert "node.ae_titel: unknown key; did you mean 'ae_title'?" in said


@pytest.mark.parametrize(
    ("line", "said_so"),
    [
        ('bind = "203.0.113.7"', "node.bind = '203.0.113.7': not an address of this machine"),
        ('bind = "no such host"', "node.bind"),
        ('database_url = "sqlite://"', "nothing in memory survives"),
        ('database_url = "nonsense"', "node.database_url names no usable database"),
        ('database_url = "postgresql+psycopg://nobody@127.0.0.1:1/none"', "the database cannot be used"),
        ('data_folder = "config.toml/data"', "node.data_folder"),
        (f'data_folder = "{300 * "d"}"', "File name too long"),
        ('database_url = "sqlite://data/node.sqlite"', "node.database_url names no usable database"),  # it takes three
        ('database_url = "postgresql://n:SECRET@h:x/d"', "node.database_url names no usable database"),
    ],
)
def test_what_serve_would_refuse_check_config_refuses(folder: Path, line: str, said_so: str):
    (folder / "config.toml").write_text(f"[node]\n{line}\n")
    code, said = run(folder, "check-config")
    assert code == 1
    assert said_so in said
    assert "SECRET" not in said
    assert not (folder / "data").exists()


def test_what_serve_takes_check_config_takes(folder: Path):
    """Nothing to bind to means all addresses."""
    with (folder / "config.toml").open("a") as config:
        config.write('bind = ""\n')
    assert run(folder, "check-config")[0] == 0


def test_a_checkpoint_that_is_none_is_refused_before_anything_starts(folder: Path):
    (folder / "model.safetensors").write_bytes(b"not a checkpoint")
    code, said = run(folder, "serve")
    assert code == 1
    assert "model.checkpoint" in said
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("text", "said_so"),
    [
        ('[model]\ndevice = "cuda"\n', "model.device: device 'cuda' is not available"),
        ('[node]\ntls = true\ntls_certificate = "a.pem"\ntls_key = "b.key"\ntls_clients = "none"\n', "a.pem"),
        ('[[peers]]\nname = "P"\nhost = "h"\nport = 1\nae_title = "P"\ntls = true\ntls_ca = "c.pem"\n', "c.pem"),
    ],
)
def test_what_would_fail_later_check_config_tells_before(folder: Path, text: str, said_so: str):
    import torch

    if "cuda" in text and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (folder / "config.toml").write_text(text)
    code, said = run(folder, "check-config")
    assert code == 1
    assert said_so in said


def test_a_letter_that_the_terminal_lacks_ends_no_command(folder: Path):
    database, _ = open_store(load(folder / "config.toml"))
    one = {"series_uid": "1.2", "study_uid": "1.3", "calling_aet": "A", "state": "refused", "run": 0, "forced": False}
    with database.write() as connection:
        reason = "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"
        connection.execute(series.insert().values(one | {"reason": reason, "first_at": 0.0, "last_at": 0.0}))
    database.close()
    command = [sys.executable, "-m", "dicom_node", "status", "--config", str(folder / "config.toml")]
    ran = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert ran.returncode == 0
    assert b"M\\xfcller" in ran.stdout


def test_values_that_break_the_rules_are_quoted_to_nobody(folder: Path):
    (folder / "images").mkdir()
    image = ct()
    image.SOPInstanceUID = "1.2.007"
    (folder / "images" / "one.dcm").write_bytes(part10(image))
    command = [
        sys.executable,
        "-m",
        "dicom_node",
        "send",
        str(folder / "images"),
        "--config",
        str(folder / "config.toml"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (1, "0 of 1 stored")
    assert "1.2.007" not in ran.stderr


@pytest.mark.parametrize("group", [[], ["report"], ["model"]])
def test_help_tells_every_command_in_a_whole_sentence(group: list[str]):
    said = CliRunner().invoke(main, [*group, "--help"], terminal_width=80).output
    assert "..." not in said.partition("Commands:")[2]
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("trained_for", "remedy"), [("paper", "set it to 'paper'"), ("another", "no setting suits it: retrain it")]
)
def test_a_checkpoint_for_another_brace_removal_is_told_with_the_setting(folder: Path, trained_for: str, remedy: str):
    from dtvit.preprocess import preprocessing

    version = preprocessing("paper") if trained_for == "paper" else "another-1"
    untrained_checkpoint(folder / "model.safetensors", preprocessing=(version,))
    code, said = run(folder, "check-config")
    assert code == 1
    assert "which is not what model.brace_removal = 'robust' produces" in said
    assert remedy in said


def begun(folder: Path) -> None:
    """As a first start of serve leaves it."""
    database, _ = open_store(load(folder / "config.toml"))
    database.close()


def test_status_of_an_empty_node(folder: Path):
    begun(folder)
    code, said = run(folder, "status", "--json")
    assert code == 0
    status = json.loads(said)
    assert (status["by_state"], status["undelivered"], status["oldest_waiting_s"]) == ({}, 0, None)
    assert run(folder, "status")[0] == 0


@pytest.mark.parametrize("broken", ["configuration", "database"])
def test_what_keeps_status_from_looking_is_an_alarm(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str):
    begun(folder)
    if broken == "configuration":
        (folder / "config.toml").write_text("[node]\nprot = 104\n")
    else:

        def touch(path: Path, **_: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "touch", touch)  # whoever runs the tests may be allowed everything
    code, said = run(folder, "status", "--check")
    assert code == 2
    assert "did you mean 'port'" in said or "node.sqlite cannot be used: Permission denied" in said
    assert run(folder, "status")[0] == 1


@pytest.mark.parametrize("command", ["show", "retry"])
@pytest.mark.parametrize("named", ["17", "1.2.3.4", "23555284310027559950393334993887522322"])
def test_a_series_that_is_not_there_is_said_so(folder: Path, command: str, named: str):
    begun(folder)
    code, said = run(folder, command, named)
    assert code == 1
    assert named in said


def test_an_unknown_peer_is_said_so_with_the_known_ones(folder: Path):
    code, said = run(folder, "echo", "PACS9")
    assert code == 1
    assert "no peer is named 'PACS9'" in said


def test_echo_of_a_peer_that_is_not_there(folder: Path):
    peer = '[[peers]]\nname = "GONE"\nhost = "127.0.0.1"\nport = 1\nae_title = "GONE"\ntimeout_s = 2\n'
    (folder / "config.toml").write_text(peer)
    code, said = run(folder, "echo", "GONE")
    assert code == 1
    assert "GONE (127.0.0.1:1) cannot be reached" in said


def test_sending_that_ends_in_the_middle_says_how_far_it_came(folder: Path):
    peer = '[[peers]]\nname = "GONE"\nhost = "127.0.0.1"\nport = 1\nae_title = "GONE"\ntimeout_s = 2\n'
    (folder / "config.toml").write_text(peer)
    (folder / "one.dcm").write_bytes(part10(ct(1)))
    code, said = run(folder, "send", str(folder), "--to", "GONE")
    assert code == 1
    assert "GONE (127.0.0.1:1) cannot be reached" in said
    assert "0 of 1 stored" in said


def test_what_a_peer_refuses_is_not_counted_as_stored(folder: Path):
    """Who sends a folder on may delete it afterwards."""
    refused = ct(2).SOPInstanceUID
    for number in (1, 2):
        (folder / f"{number}.dcm").write_bytes(part10(ct(number)))

    def accept(got: Received) -> StoreStatus:
        return StoreStatus.CANNOT_UNDERSTAND if got.sop_instance_uid == refused else StoreStatus.SUCCESS

    with listening(accept) as port:
        peer = f'[[peers]]\nname = "PACS"\nhost = "127.0.0.1"\nport = {port}\nae_title = "DICOM_NODE"\n'
        (folder / "config.toml").write_text(f'[node]\nae_title = "CT1"\n{peer}')
        code, said = run(folder, "send", str(folder), "--to", "PACS")
        assert (code, "1 of 2 stored" in said, str(folder / "2.dcm") in said) == (1, True, True)
        code, said = run(folder, "send", str(folder / "1.dcm"), "--to", "PACS")
        assert (code, "1 of 1 stored" in said) == (0, True)
        assert run(folder, "echo", "PACS")[0] == 0


@pytest.mark.parametrize("command", ["send", "classify"])
@pytest.mark.parametrize("locked", ["one.dcm", "locked"])
def test_a_file_or_folder_that_cannot_be_read_is_not_left_out_silently(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, locked: str
):
    """Who sends a folder on may delete it afterwards."""
    images = folder / "images"
    (images / "locked").mkdir(parents=True)
    for name in ("one.dcm", "locked/two.dcm"):
        (images / name).write_bytes(part10(ct(1)))
    for where, name in ((os, "scandir"), (Path, "open")):
        monkeypatch.setattr(where, name, locked_at(images / locked, getattr(where, name)))
    code, said = run(folder, command, str(images)) if command == "send" else invoked(command, str(images))
    assert code == 1
    assert f"{images / locked} cannot be read: Permission denied" in said


def locked_at(locked: Path, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Whoever runs the tests may be allowed everything."""

    def opened(path: Any, *how: Any, **more: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return otherwise(path, *how, **more)

    return opened


@pytest.mark.parametrize("command", [["brace", "--out"], ["demo", "--output"]])
def test_a_folder_that_cannot_be_made_is_told_without_a_traceback(folder: Path, command: list[str]):
    (folder / "one.dcm").write_bytes(part10(ct(1)))
    target = folder / "config.toml" / "out"
    named = [str(folder)] if command[0] == "brace" else []
    code, said = invoked(command[0], *named, command[1], str(target))
    assert (code, ": Not a directory" in said) == (1, True)


def test_a_crash_leaves_no_core_with_what_was_in_memory(folder: Path):
    """Images and names would lie in the system's folder for core dumps, where no `forget` finds them."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        run(folder, "check-config")
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_what_a_peer_stored_with_a_warning_is_named(folder: Path) -> None:
    (folder / "1.dcm").write_bytes(part10(ct(1)))
    pacs = StandInPacs(folder / "pacs", answer=lambda _: 0xB006)
    pacs.start()
    try:
        peer = f'[[peers]]\nname = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\nae_title = "PACS"\n'
        (folder / "config.toml").write_text(peer)
        code, said = run(folder, "send", str(folder / "1.dcm"), "--to", "PACS")
    finally:
        pacs.stop()
    assert (code, "1 of 1 stored" in said) == (0, True)
    assert f"{folder / '1.dcm'}: stored, with the warning B006 (elements discarded)" in said


def test_a_node_that_takes_tls_alone_is_not_sent_to_in_clear(folder: Path):
    tls = 'tls = true\ntls_certificate = "a.pem"\ntls_key = "b.key"\ntls_clients = "none"\n'
    (folder / "config.toml").write_text(f"[node]\n{tls}")
    code, said = run(folder, "send", str(folder))
    assert code == 1
    assert "this node accepts only TLS" in said


@pytest.mark.parametrize("named", [[], ["--patient", ""], ["--study", ""], ["--patient", "P-1", "--study", "1.2"]])
def test_who_is_to_be_forgotten_is_named_in_one_way(folder: Path, named: list[str]):
    """No name is no patient: those who sent none are not one."""
    node = made_node(folder)
    node.accept(ct(1, PatientID=""))
    code, said = run(folder, "forget", "--yes", *named)
    assert code == 1
    assert "give one of the two" in said
    assert len(node.rows(instances)) == len(node.files()) == 1


def test_a_no_forgets_nobody_and_a_yes_one_alone(folder: Path):
    node = made_node(folder)
    node.accept(ct(1), ct(1, series="1.2.9.1", study="1.2.9", PatientID="P-2"))
    arguments = ["forget", "--patient", "P-1", "--config", str(folder / "config.toml")]
    no = CliRunner().invoke(main, arguments, input="n\n")
    assert no.exit_code == 1
    assert "Erase 1 series with all images and reports, for good?" in no.output
    assert len(node.rows(instances)) == 2
    assert CliRunner().invoke(main, arguments, input="y\n").exit_code == 0
    assert [row.study_uid for row in node.rows(series)] == ["1.2.9"]


def test_a_study_of_several_series_is_to_be_named_by_the_number_of_one(folder: Path):
    node = made_node(folder)
    node.accept(ct(1, series="1.2.9.1", study="1.2.9"), ct(1, series="1.2.9.2", study="1.2.9"))
    code, said = run(folder, "retry", "1.2.9")
    assert (code, "several series of this study: 1, 2;" in said) == (1, True)
    assert json.loads(run(folder, "show", "1.2.9.2", "--json")[1])["series"]["id"] == 2


def test_of_whom_nothing_is_known_is_asked_in_other_words(folder: Path):
    begun(folder)
    arguments = ["forget", "--patient", "NOBODY", "--config", str(folder / "config.toml")]
    said = CliRunner().invoke(main, arguments, input="n\n").output
    assert "It has no series here" in said
    arguments.remove("NOBODY")
    asked = CliRunner().invoke(main, arguments, input="NOBODY\ny\n")
    assert "Patient ID: NOBODY" in asked.output
    assert "nothing of this patient or study is here" in asked.output


def test_model_info_reads_the_configured_checkpoint(folder: Path):
    code, said = run(folder, "model", "info", "--json")
    assert code == 0
    assert json.loads(said)["name"] == "untrained"
    shown = run(folder, "model", "info")[1]
    assert "NOT FOR CLINICAL USE" in shown


def test_model_info_fits_a_screen_and_says_where_the_rest_is(tmp_path: Path):
    """Of the shipped checkpoint: its metrics alone are a thousand numbers."""
    code, shown = run(tmp_path, "model", "info")
    assert code == 0
    assert len(shown.splitlines()) < 70
    assert "present_at: 0.7" in shown
    assert "not shown: training, metrics, statistics" in shown
    known = json.loads(run(tmp_path, "model", "info", "--json")[1])
    assert {"training", "metrics", "statistics"} <= known.keys()
    assert known["sha256"] in re.sub(r"\W", "", shown)
