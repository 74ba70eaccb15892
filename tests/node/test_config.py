"""The configuration explains itself: the shipped file is complete, and an error says what to do."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dicom_node.config import Config, Peer
from dicom_node.configfile import from_line, load, to_line
from dicom_node.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config.toml"
LONG_LABEL = 63 * "\N{LATIN SMALL LETTER U WITH DIAERESIS}"  # more than 63 once in ASCII (RFC 3490)
PEER = '[[peers]]\nname = "{}"\nhost = "h"\nport = 104\nae_title = "A"\n'


def loaded(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def error(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return str(caught.value)


def shipped_with_everything() -> dict[str, Any]:
    """The shipped file with what it shows in comments put to use."""
    lines = []
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        shown = re.match(r"# (\[\[peers\]\]|[a-z_]+ = .*)$", line)
        lines.append(shown[1] if shown else line)
    return tomllib.loads("\n".join(lines))


def test_the_shipped_file_holds_the_defaults_key_by_key() -> None:
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    defaults = Config().model_dump(mode="json")
    for section, keys in shipped.items():
        for key, value in keys.items():
            assert defaults[section][key] == value, f"{section}.{key}"
    assert Config.model_validate(shipped) == Config()


def test_what_is_handed_over_in_one_line_is_the_same_on_the_other_side(tmp_path: Path) -> None:
    everything = Config.model_validate(shipped_with_everything())
    here = loaded(tmp_path, PEER.format("A") + '[node]\nae_title = "A\\"B"\ndatabase_url = "postgresql://n:p@h/d"')
    for config in (Config(), everything, here):
        line = to_line(config)
        assert line.count(b"\n") == 1
        assert from_line(line) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\nport = true", "node.port = True: input should be a valid integer"),
        ('[node]\nport = "11112"', "node.port = '11112': input should be a valid integer"),
        ("[peers]\nname = 'A'", "peers: should be blocks that begin with [[peers]]"),
        ("node = 1", "node: should be a section that begins with [node]"),
        ("[model]\nreaders = 'many'", "model.readers = 'many': must be a number of processes, 0 or more, or \"auto\""),
        ("[model]\nreaders = -1", "model.readers = -1: must be a number of processes"),
        (
            PEER.format("A").replace('"h"', '"http://pacs"'),
            "peers[1].host = 'http://pacs': must be a name or an address alone",
        ),
        (PEER.format("A").replace('"h"', '"pacs..local"'), "peers[1].host = 'pacs..local'"),
        (PEER.format("A").replace('"h"', '"pacs:104"'), "peers[1].host = 'pacs:104'"),
        (PEER.format("A") + "objects = []", "peers[1]: objects is empty, so the peer would get nothing"),
        (PEER.format("A") + 'objects = ["report", "report"]', "peers[1]: objects names one kind twice"),
        (
            PEER.format("A") + 'tls = true\ntls_key = "k"',
            "peers[1]: tls_certificate and tls_key must be given together",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_its_key_alone(tmp_path: Path, text: str, said: str) -> None:
    told = error(tmp_path, text + "\n").splitlines()
    assert len(told) == 2
    assert told[1].strip().startswith(said)


@pytest.mark.parametrize("host", ["10.0.0.7", "2001:db8::7", "fe80::1%eth0", "pacs", "pacs_1.example.org."])
def test_names_and_addresses_are_hosts(tmp_path: Path, host: str) -> None:
    assert loaded(tmp_path, PEER.format("A").replace('"h"', f'"{host}"')).peers[0].host == host


@pytest.mark.parametrize("host", ["192.168.010.020", "192.168.1", "192.0.2.300", "10", "0x7f000001", "0300.0250.0.1"])
def test_what_looks_like_an_address_and_is_none_is_refused(tmp_path: Path, host: str) -> None:
    """The resolver reads 192.168.010.020 as 192.168.8.16: results would go to another machine."""
    assert f"peers[1].host = '{host}': must be a name" in error(tmp_path, PEER.format("A").replace('"h"', f'"{host}"'))
    assert f"node.bind = '{host}': must be a name" in error(tmp_path, f'[node]\nbind = "{host}"\n')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\nbind = "a..b"', "node.bind = 'a..b': must be a name or an address alone"),
        (PEER.format("A").replace('"h"', f'"{LONG_LABEL}"'), "peers[1].host"),
        ('[node]\ndata_folder = "~no-such-user/data"', "'~no-such-user/data': there is no such user here"),
        ('[model]\ncheckpoint = "~no-such-user/c"', "model.checkpoint = '~no-such-user/c': there is no such user here"),
        ('[node]\ndata_folder = "a\\u0000b"', "node.data_folder = 'a\\x00b': a path has no NUL in it"),
        (f"[node]\nport = {5000 * '9'}", "is not valid TOML"),
        (f"a = {5000 * '['}", "is not valid TOML"),
        ('[node]\nae_title = "*"', "node.ae_title = '*': * stands for anybody, and is no AE title"),
    ],
)
def test_what_would_end_serve_later_is_told_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    assert said in error(tmp_path, text + "\n")


@pytest.mark.parametrize(
    "key",
    [
        *("node.request_timeout_s", "completion.settle_s", "completion.silence_s", "completion.reopen_wait_s"),
        *("results.retry_first_s", "results.lease_s"),
    ],
)
def test_a_wait_in_milliseconds_is_told(tmp_path: Path, key: str) -> None:
    """Nobody would see a result that waits for 30,000 seconds of silence."""
    section, _, name = key.partition(".")
    assert f"{key} = 30000: input should be less than or equal to 3600" in error(
        tmp_path, f"[{section}]\n{name} = 30000"
    )


def test_a_peer_is_not_waited_for_all_day(tmp_path: Path) -> None:
    assert "peers[1].timeout_s = 30000" in error(tmp_path, PEER.format("A") + "timeout_s = 30000")


def test_a_peer_called_anybody_lets_nobody_in(tmp_path: Path) -> None:
    said = error(tmp_path, PEER.format("P").replace('ae_title = "A"', 'ae_title = "*"'))
    assert "peers[1].ae_title = '*': * stands for anybody" in said


def test_a_file_from_another_editor_is_read_or_said_to_be_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[node]\nport = 104\n")
    assert load(path).node.port == 104
    path.write_bytes(b'[node]\nae_title = "M\xfc"\n')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(path)


def test_the_shipped_file_names_every_key_there_is() -> None:
    shipped = shipped_with_everything()
    for section, field in Config.model_fields.items():
        model = Peer if section == "peers" else field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        given = shipped["peers"][0] if section == "peers" else shipped[section]
        assert set(given) == set(model.model_fields), section
    Config.model_validate(shipped)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[node]\nport = 70000", ["node.port", "70000", "65535"]),
        ('[node]\nport = "many"', ["node.port", "many", "integer"]),
        ('[node]\nae_title = ""', ["node.ae_title", "1 to 16"]),
        ('[node]\nae_title = "A\\\\B"', ["node.ae_title", "no backslash"]),
        ('[node]\nallowed_senders = ["SEVENTEEN_LETTERS"]', ["node.allowed_senders[1]", "1 to 16"]),
        ('[eligibility]\nrefused_kernels = ["("]', ["eligibility.refused_kernels[1]", "regular expression"]),
        ("[completion]\nsettle_s = 0", ["completion.settle_s", "0", "greater than 0"]),
        ("[completion]\nsilence_s = inf", ["completion.silence_s", "finite"]),
        ("[completion]\nsettle_s = 40", ["completion.silence_s = 30", "completion.settle_s = 40"]),
        ('[model]\ndevice = "gpu"', ["model.device", "gpu", "auto"]),
        ('[[peers]]\nname = "A B"\nhost = "h"\nport = 1\nae_title = "A"', ["peers[1].name", "A B"]),
        ('[[peers]]\nname = "A"', ["peers[1].port: is missing", "peers[1].host: is missing"]),
        ("[eligibility]\nmin_thickness_mm = 5\nmax_thickness_mm = 2", ["min_thickness_mm", "max_thickness_mm"]),
        ("[node]\nport = 1\nport = 2", ["not valid TOML"]),
        ("node = 3", ["node: should be a section that begins with [node]"]),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(tmp_path: Path, text: str, parts: list[str]) -> None:
    said = error(tmp_path, text)
    assert str(tmp_path / "config.toml") in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[node]\nae_tilte = 'A'", "node.ae_tilte: unknown key; did you mean 'ae_title'?"),
        ("[nodes]\nport = 1", "nodes: unknown key; did you mean 'node'?"),
        ("[[peers]]\nname='A'\nhost='h'\nport=1\nae_title='A'\nhots='h'", "did you mean 'host'?"),
        ("[logging]\nzzz = 1", "known here: level"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, hint: str) -> None:
    assert hint in error(tmp_path, text)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    said = error(tmp_path, "[node]\nport = 0.5\nbnid = ''\n[results]\ntries = 0")
    assert said.count("\n") == 3


def test_two_peers_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "'PACS1' is used twice" in error(tmp_path, PEER.format("PACS1") * 2)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = loaded(tmp_path, '[node]\ndata_folder = "kept"\n[model]\ncheckpoint = "a.safetensors"')
    assert config.node.data_folder == tmp_path / "kept"
    assert config.model.checkpoint == tmp_path / "a.safetensors"
    assert config.database_url == f"sqlite:///{tmp_path}/kept/node.sqlite"
    absolute = loaded(tmp_path, '[node]\ndata_folder = "/var/lib/node"')
    assert absolute.node.data_folder == Path("/var/lib/node")


def test_a_file_that_cannot_be_read_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(tmp_path / "binary.toml")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen"))  # as old systems wrote it
    folder.mkdir()
    with pytest.raises(ConfigError, match="the name of a folder here is not UTF-8") as caught:
        loaded(folder, "[node]\nport = 104\n")
    str(caught.value).encode()  # it can be printed


def test_spaces_around_a_title_do_not_count(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[node]\nae_title = " NODE "\nallowed_senders = ["CT1 ", "*"]')
    assert config.node.ae_title == "NODE"
    assert config.node.allowed_senders == ("CT1", "*")


def test_only_peers_with_results_are_destinations_and_each_is_found_by_name(tmp_path: Path) -> None:
    config = loaded(tmp_path, PEER.format("A") + PEER.format("B") + "results = false\n")
    assert [p.name for p in config.destinations] == ["A"]
    assert config.peer("B").results is False
    with pytest.raises(ConfigError, match="known: A, B"):
        config.peer("C")


def test_a_relative_sqlite_path_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\ndatabase_url = "sqlite:///other.sqlite"\n')
    assert load(tmp_path / "config.toml").database_url == f"sqlite:///{tmp_path / 'other.sqlite'}"


def test_a_single_value_where_a_list_belongs_is_told_how_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\nallowed_senders = "CT1"\n')
    with pytest.raises(ConfigError, match=r'node.allowed_senders = .CT1.: should be a list, such as \["CT1"\]'):
        load(tmp_path / "config.toml")


def test_what_is_allowed_and_may_not_be_meant_is_told(tmp_path: Path) -> None:
    """Silence at a destination must be somebody's decision, as it is easily read as absent."""
    nobody, positives = (
        loaded(tmp_path, text).gaps() for text in ("", f"{PEER.format('PACS1')}only_positive = true\n")
    )
    assert ["sent to nobody" in nobody[0], "every sender is rejected" in nobody[1]] == [True, True]
    assert positives == ["PACS1 gets positive results only: no report there may mean absent, or not looked at"]


@pytest.mark.parametrize(
    ("node", "host", "port"),
    [
        ("", "127.0.0.1", 11112),
        ("", "LocalHost.", 11112),
        ("", "127.0.1.1", 11112),
        ('bind = "::"', "::1", 11112),
        ('bind = "192.0.2.7"\nport = 104', "192.0.2.7", 104),
        ('bind = "2001:db8::7"', "2001:0DB8:0::7", 11112),
    ],
)
def test_results_are_not_delivered_to_this_node_itself(tmp_path: Path, node: str, host: str, port: int) -> None:
    """It acknowledges what it made itself and leaves it alone."""
    myself = f'[[peers]]\nname = "ME"\nhost = "{host}"\nport = {port}\nae_title = "DICOM_NODE"\n'
    said = error(tmp_path, f"[node]\n{node}\n{myself}")
    assert f"ME ({host}:{port}) is this node" in said
    assert "results = false" in said
    assert loaded(tmp_path, f"[node]\n{node}\n{myself}results = false\n").destinations == ()


def test_a_destination_that_may_be_this_node_is_told(tmp_path: Path) -> None:
    named = '[[peers]]\nname = "P"\nhost = "radiology-7"\nport = 11112\nae_title = "DICOM_NODE"\n'
    said = ["P has the AE title of this node: if it is this node, results are delivered to nobody"]
    assert loaded(tmp_path, named).gaps() == said
    assert loaded(tmp_path, f'[node]\nbind = "192.0.2.7"\n{named}').gaps() == said


def peers(*kinds: str) -> str:
    return "".join(f'[[peers]]\nname = "P{n}"\n{kind}\n' for n, kind in enumerate(kinds, 1))


AT_104, ELSEWHERE, ON_105 = (
    'host = "pacs"\nport = 104\n',
    'host = "mirror"\nport = 104\n',
    'host = "pacs"\nport = 105\n',
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (peers(f'{AT_104}ae_title = "A"', 'host = "PACS."\nport = 104\nae_title = "A"'), "results go there twice"),
        (peers(f'{AT_104}ae_title = "A"', f'{ELSEWHERE}ae_title = "A"'), "at two addresses: is that meant?"),
        (peers(f'{AT_104}ae_title = "A"', f'{ON_105}ae_title = "A"'), "at two addresses: is that meant?"),
    ],
)
def test_two_blocks_for_one_destination_are_told(tmp_path: Path, text: str, said: str) -> None:
    (told,) = loaded(tmp_path, text).gaps()
    assert told.startswith("P1 and P2 have one ")
    assert told.endswith(said)


@pytest.mark.parametrize(
    "text",
    [
        peers(f'{AT_104}ae_title = "A"', f'{AT_104}ae_title = "B"'),  # one PACS, two titles
        peers(f'{AT_104}ae_title = "A"', f'{AT_104}ae_title = "B"\nresults = false'),
        peers(f'{AT_104}ae_title = "A"', f'{ON_105}ae_title = "A"\nresults = false'),  # what it sends comes from it too
        peers(f'{AT_104}ae_title = "A"\nobjects = ["report"]', f'{AT_104}ae_title = "A"\nobjects = ["picture"]'),
        peers(f'{AT_104}ae_title = "A"', f'{ELSEWHERE}ae_title = "B"'),
        peers('host = "127.0.0.1"\nport = 104\nae_title = "A"'),  # a PACS beside the node
    ],
)
def test_what_two_peers_may_well_have_in_common_is_not_told(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).gaps() == []


def test_where_commitment_is_given_two_peers_of_one_title_are_told(tmp_path: Path) -> None:
    """Who asks is known by its title alone."""
    two = peers(f'{AT_104}ae_title = "A"', f'{ELSEWHERE}ae_title = "A"\nresults = false')
    (told,) = loaded(tmp_path, f"{two}[commitment]\naccept = true\n").gaps()
    assert told == "P1 and P2 have one AE title, A: P1 gets the answer to each request for commitment"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\nallowed_senders = ["CT*"]', "CT* in node.allowed_senders is a title like any other: only * alone"),
        ('[node]\nallowed_senders = ["CT1"]\n[backlog]\nlive_senders = ["ct1"]', "backlog.live_senders names ct1,"),
        ('[node]\nallowed_senders = ["CT1"]\n[backlog]\nsenders = ["MIGRATION"]', "backlog.senders names MIGRATION,"),
    ],
)
def test_a_title_that_cannot_have_been_meant_is_told(tmp_path: Path, text: str, said: str) -> None:
    (told,) = loaded(tmp_path, text + "\n" + peers(f'{AT_104}ae_title = "A"')).gaps()
    assert told.startswith(said)


@pytest.mark.parametrize(("allowed", "waits"), [("CT1", "CT1"), ("*", "B"), ("CT1", "A"), ("CT1", "DICOM_NODE")])
def test_titles_that_may_send_are_not_told(tmp_path: Path, allowed: str, waits: str) -> None:
    text = f'[node]\nallowed_senders = ["{allowed}"]\n[backlog]\nsenders = ["{waits}"]\n'
    assert loaded(tmp_path, text + peers(f'{AT_104}ae_title = "A"')).gaps() == []
