"""Processes that share work: what a script must be like to have them, and how the end of one is told."""

import os
import signal
import subprocess
import sys

import pytest
from learning import REPOSITORY, filed_heads, quiet, recipe

from dtvit.preprocess import HEAD_BOX
from train.learning.state import UnusableRun
from train.options import Settings
from train.processes import LostProcess, in_processes
from train.run import run

GUARD = 'if __name__ == "__main__":\n    '
SCRIPTS = {
    "phantoms": 'from train.making.synthetic import make\nmake(Path("heads"), 4, 0, "robust", print, processes=2)',
    "what is kept": 'from train.keeping import once\nonce(Path("kept"), "", Path, lambda: in_processes(*WORK))',
    "a run's folder": 'from train.learning.state import claimed\nwith claimed(Path("run")): in_processes(*WORK)',
    "nothing": "print(in_processes(*WORK)[:2])",
}
START = """from pathlib import Path
from train.processes import in_processes
WORK = abs, range(-40, 0), 2, print, ""
"""


def ran(folder, text):
    """A script in that folder, which is also where it runs, to its end."""
    (folder / "script.py").write_text(f"{START}{text}\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("holds", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_without_a_guard_ends_with_a_line_that_says_so(tmp_path, holds):
    ended = ran(tmp_path, holds)
    said = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert said[-1].startswith("train.processes.UnguardedScript: each process that ")
    assert said[-1].endswith(
        'script.py starts runs it again from its top; put what it does below if __name__ == "__main__":'
    )
    assert ended.stderr.count("UnguardedScript:") == 1  # by the script, and by none of its processes


def test_a_script_with_a_guard_has_its_processes(tmp_path):
    ended = ran(tmp_path, GUARD + SCRIPTS["nothing"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[40, 39]\n", "")


def killed(_job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (os._exit, r"^ended by itself with status [1-9]\d?$"),
        (killed, r"^was killed \(SIGKILL\), as the system does when memory runs out$"),
    ],
)
def test_how_a_process_ended_is_reported_if_the_script_is_not_at_fault(work, told):
    with pytest.raises(LostProcess, match=told):
        in_processes(work, range(1, 41), 2, quiet, "")


def test_a_training_whose_process_is_killed_says_so_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("train.making.enriching._trace_of", killed)
    given = recipe(phantom_heads=0, counterfactuals=True, geometry=HEAD_BOX, split="given")
    settings = Settings(output=tmp_path / "run", data=filed_heads(tmp_path), device="cpu", processes=2)
    with pytest.raises(UnusableRun, match=r"was killed \(SIGKILL\).*memory.*nothing is trained yet.*--processes"):
        run(given, settings, quiet)
