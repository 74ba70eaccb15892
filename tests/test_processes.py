"""Processes that share work: what a script must be like to have them, and how the end of one is told."""

import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
from learning import REPOSITORY, quiet

from train.processes import in_processes

GUARD = 'if __name__ == "__main__":\n    '
SCRIPTS = {
    "phantoms": 'from train.synthetic import make\nmake(Path("heads"), 4, 0, "robust", print, processes=2)',
    "what is kept": 'from train.keeping import once\nonce(Path("kept"), "", Path, lambda: in_processes(*WORK))',
    "a run's folder": 'from train.state import claimed\nwith claimed(Path("run")): in_processes(*WORK)',
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


def test_a_process_that_dies_of_something_else_is_not_the_scripts_fault():
    with pytest.raises(BrokenProcessPool):
        in_processes(os._exit, range(40), 2, quiet, "")
