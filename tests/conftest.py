"""What all tests share: the folder with real head CT, where there is one."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real CT for testing; it is no part of the project, and the tests that need it skip without it."""
    folder = Path(os.environ.get("DICOM_NODE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real CT data at {folder} (set DICOM_NODE_SHARED_DATA)")
    return folder
