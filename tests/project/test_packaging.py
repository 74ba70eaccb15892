"""What is built is what is run: the wheel holds everything that the program reads, and nothing that it must not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dtvit.checkpoint import SHIPPED, describe

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("dicom_node", "dtvit", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would take up what an earlier version left in `build`, and leave its own there."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / "source" / package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    command = [sys.executable, *("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "./source")]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip("the build backend cannot be fetched here")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_runs_without_the_repository(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    code = "import dicom_node.cli as cli; print(cli.__file__); cli.main(['--help'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": "."}
    )
    assert str(tmp_path) in str(Path(tmp_path, ran.stdout.splitlines()[0]).resolve())
    assert "NOT FOR CLINICAL USE" in ran.stdout


def test_the_wheel_holds_every_module_the_weights_and_no_data(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    modules = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    assert sorted(n for n in names if n.endswith(".py")) == sorted(str(m.relative_to(REPOSITORY)) for m in modules)
    for wanted in (
        f"dtvit/weights/{SHIPPED.name}",
        "dtvit/weights/LICENSE",
        "dtvit/weights/MODEL-CARD.md",
        "train/recipes/robust.toml",
        "train/reproduce/papers.toml",
        "dicom_node/py.typed",
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith((".dcm", ".webp", ".sqlite")) or name.startswith("tests/")]


def test_the_shipped_checkpoint_is_small_and_says_what_it_is():
    checkpoint = describe(SHIPPED)
    assert SHIPPED.stat().st_size <= 45_000_000
    assert "335 patients" in checkpoint.metadata.patients_seen
    assert "NOT FOR CLINICAL USE" in checkpoint.metadata.notice
