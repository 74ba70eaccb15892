"""What tests share: real head CT, where there is any, a node, either receiving loop, the order of the files.

Training is tested where no DICOM library is installed: what needs one is imported in its fixture.
"""

from __future__ import annotations

import os
import socketserver
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from made import Made

if "PYTEST_XDIST_WORKER" in os.environ:  # another process of tests wants the other core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)  # else hundreds of peers take half a second each to end

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST = ("test_crashes.py", "test_serve.py", "test_train.py", "test_worker_faults.py", "test_loop.py", "test_demo.py")
"""Files that take more than half a minute; first, so that of two processes none is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real CT for testing; it is no part of the project, and the tests that need it skip without it."""
    folder = Path(os.environ.get("DICOM_NODE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real CT data at {folder} (set DICOM_NODE_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """No more files are open after a test than before."""
    yield
    if "made" in sys.modules:
        sys.modules["made"].close_all()


@pytest.fixture
def node(tmp_path: Path) -> Made:
    """A node without network and processes, which owes its reports to one destination."""
    from made import made_node, peer

    return made_node(tmp_path, peers=[peer(104)])


@pytest.fixture(params=[True, False], ids=["own", "pynetdicom"])
def either_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with the node's own receiving loop, and with the library's."""
    import receiving

    monkeypatch.setattr(receiving, "OWN_LOOP", request.param)
