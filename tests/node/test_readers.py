"""Processes that read beside the model: the same slices, and whatever becomes of one of them costs its file alone."""

from __future__ import annotations

import itertools
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made import FakeClassifier, Made, Predictions, encoded, head_series, made_node, peer, received

from dicom_node.config import Model
from dicom_node.store import series
from dicom_node.store.tables import instances, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.working import readers as readers_module
from dicom_node.working.readers import ReaderEnded, Readers
from dicom_node.working.reading import Again, LeftOut, Ready, Wanted, Way, look_again, look_at
from dicom_node.working.slices import SliceReader
from dtvit import preprocess
from dtvit.ct import CTObject, CTSlice

WAY = Way("paper", preprocess.HEAD_BOX)
DIES = """
from dicom_node.store.spool import Spool
read = Spool.read
def reads(self, name):
    if name == {name!r}:
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, name)
Spool.read = reads
"""
SLOW = """
import time
from pathlib import Path
from dicom_node.store.spool import Spool
read = Spool.read
def reads(self, name):
    while name == {name!r} and not Path({until!r}).exists():
        time.sleep(0.01)
    return read(self, name)
Spool.read = reads
"""
NOTES = """
from dicom_node.store.spool import Spool
read = Spool.read
def reads(self, name):
    with open({notes!r}, "a") as notes:
        print(name, file=notes)
    return read(self, name)
Spool.read = reads
"""
HALF = """
import os, pickle
from dicom_node.store.spool import Spool
dumps, read, written = pickle.dumps, Spool.read, []
class Half(bytes):
    def __len__(self):
        return 2 * super().__len__()
def half(message, protocol):
    if message[0] != {name!r}:
        return dumps(message, protocol)
    written.append(message)
    return Half(dumps(message, protocol))
def reads(self, name):
    if written:
        os._exit(7)
    return read(self, name)
pickle.dumps, Spool.read = half, reads
"""
STRAYS = """
import pickle
dumps = pickle.dumps
pickle.dumps = lambda it, protocol: dumps(("another", it[1]) if isinstance(it, tuple) else it, protocol)
"""
POISON = """
import ctypes, signal, threading
from dtvit.reading.pixels import Pixels
malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
stored = Pixels.stored
def decoded(self, index):
    if self._dataset.SOPInstanceUID == {uid!r}:
        {does}
    return stored(self, index)
Pixels.stored = decoded
"""


@pytest.fixture
def node(tmp_path: Path) -> Made:
    node = made_node(tmp_path, peers=[peer(104)], model=Model(brace_removal="paper"))
    assert set(node.accept(*head_series())) == {0}
    node.tick_after(31)
    return node


def in_processes(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each Python process started from now on run this first."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    here = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), here]))


def answer(readers: Readers, file: str) -> list[Ready | LeftOut]:
    readers.ask(file)
    return readers.answer(file, patience())


def patience(seconds: float = 60.0) -> Callable[[], None]:
    """To be called while something is waited for that must come."""
    until = time.monotonic() + seconds

    def alive() -> None:
        assert time.monotonic() < until, "it never came"

    return alive


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_process_reads_more_than_it_was_given_while_nobody_asks(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    notes = tmp_path / "notes"
    in_processes(NOTES.format(notes=str(notes)), tmp_path / "site", monkeypatch)
    files = [row.file for row in node.rows(instances)]
    with closing(Readers(2, node.spool, WAY, ahead=ahead)) as readers:
        for file in files:
            readers.ask(file)
        assert not notes.exists()
        readers.go_on()
        waits = patience()
        while not notes.exists() or len(notes.read_text().split()) < 2 * ahead:
            waits()
        assert sorted(notes.read_text().split()) == sorted(files[: 2 * ahead])
        assert [len(process.asked) for process in readers._processes] == [ahead, ahead]
        assert [len(readers.answer(file, patience())) for file in files] == [1] * len(files)


def test_they_rest_while_a_model_wants_the_same_cores(node: Made) -> None:
    class Asking(FakeClassifier):
        def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
            given.extend(len(process.asked) for process in readers._processes)
            return super().predict(inputs)

    given: list[int] = []
    with node.database.read() as connection:
        found = series.instances_of(connection, 1)
    with closing(SliceReader(Asking(), node.spool, brace_removal="paper", batch=4, readers=2)) as reader:
        readers = reader._readers
        assert readers is not None
        assert sum(len(rows) for rows in reader.read(iter([found]), lambda: None)) == len(found)
    assert max(given) <= 1  # what it is at when the model begins, and no other


def test_slices_read_by_processes_are_those_read_here(node: Made) -> None:
    with closing(Readers(2, node.spool, WAY)) as readers:
        files = [row.file for row in node.rows(instances)]
        for file in files:
            readers.ask(file)
        for file in files:
            (found,), (expected,) = readers.answer(file, patience()), look_at(node.spool, file, WAY)
            assert isinstance(found, Ready)
            assert isinstance(expected, Ready)
            assert np.array_equal(found.input, expected.input)
            assert (found.content, found.position_mm, found.normal) == (
                expected.content,
                expected.position_mm,
                expected.normal,
            )
        node.spool.remove(files[0])
        assert answer(readers, files[0]) == [LeftOut(0, "its file is missing from the spool")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep memory as they like")
def test_memory_for_one_slice_is_kept_for_the_next(node: Made) -> None:
    ds = head_series()[9]
    times = 512 // ds.Rows
    ds.PixelData = np.kron(ds.pixel_array, np.ones((times, times), np.int16)).tobytes()
    ds.Rows, ds.Columns, ds.PixelSpacing = 512, 512, [mm / times for mm in ds.PixelSpacing]
    file = node.spool.keep(received(ds).meta + encoded(ds))

    def faults(asked: int) -> int:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        with closing(Readers(1, node.spool, Way("robust", preprocess.HEAD_BOX))) as readers:
            for _ in range(asked):
                assert isinstance(answer(readers, file)[0], Ready)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before

    assert (faults(25) - faults(5)) / 20 < 100  # pages, of 4 KiB: 1,500 as glibc does it by itself


def test_a_slice_that_kills_its_reader_twice_is_left_out_and_the_worker_lives(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = node.rows(instances)[9]
    in_processes(DIES.format(name=poison.file), tmp_path / "site", monkeypatch)
    classifier = FakeClassifier()
    with closing(node.worker(classifier, readers=2)) as worker:
        node.work(worker)
    found = node.rows(slice_results)
    assert [r.instance_id for r in found if r.left_out] == [poison.id]
    assert len(found) == len(head_series()) == sum(classifier.asked) + 1
    assert {r.tries for r in node.rows(instances) if r.id != poison.id} == {1}
    assert [(job.state, job.outcome, job.tries) for job in node.rows(jobs_table)] == [("reported", "present", 1)]


def test_a_reader_that_cannot_even_start_speaks_against_no_file(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_processes("raise SystemExit(3)", tmp_path / "site", monkeypatch)
    with closing(Readers(1, node.spool, WAY)) as readers, pytest.raises(RuntimeError, match="cannot start"):
        answer(readers, node.rows(instances)[0].file)
    with closing(node.worker(readers=1)) as worker:
        worker.step()
    assert node.rows(jobs_table)[0].state == "ready"
    assert {row.tries for row in node.rows(instances)} == {0}
    assert node.rows(slice_results) == []


@pytest.mark.parametrize(
    ("limit", "decoder", "ended_by"),
    [
        ("LONGEST_CPU_S", "while True: pass", signal.SIGPROF),
        ("LONGEST_S", "threading.Lock().acquire() and threading.Event().wait()", signal.SIGALRM),
    ],
)
def test_a_decoder_that_never_ends_is_ended(limit: str, decoder: str, ended_by: signal.Signals) -> None:
    code = f"""
import threading
from dicom_node.working import readers
readers.{limit} = 0.05
with readers._bounded():
    {decoder}
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -ended_by


def test_a_reader_that_takes_long_ends_neither_the_worker_nor_its_lease(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = node.rows(instances)[9]
    in_processes(SLOW.format(name=slow.file, until=str(tmp_path / "go")), tmp_path / "site", monkeypatch)
    signs = 0

    def alive() -> None:
        nonlocal signs
        signs += 1
        if signs > len(head_series()) + 2:  # more than once a slice: somebody asks while it takes its time
            (tmp_path / "go").touch()

    monkeypatch.setattr(readers_module, "SIGN_S", 0.05)
    with node.database.read() as connection:
        wanted = series.instances_of(connection, 1)
    with closing(SliceReader(FakeClassifier(), node.spool, brace_removal="paper", batch=4, readers=2)) as reader:
        found = [result for rows in reader.read(iter([wanted]), alive) for result in rows]
    assert {r.left_out for r in found} == {None}
    assert len(found) == len(wanted)


def test_nothing_of_a_read_that_made_way_is_left_to_the_next(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.database.read() as connection:
        poison, *others = series.instances_of(connection, 1)
    in_processes(DIES.format(name=poison.file), tmp_path / "site", monkeypatch)
    with closing(SliceReader(FakeClassifier(), node.spool, brace_removal="paper", batch=2, readers=1)) as reader:
        begun = reader.read(iter([[poison, *others[:8]]]), patience())
        next(begun)
        assert reader.ended == {poison.id}
        begun.close()
        assert reader._readers is not None
        assert reader._readers._answers == {}
        assert sum(map(len, reader.read(iter([others[8:9]]), patience()))) == 1
        assert reader.ended == set()


def test_a_worker_whose_readers_are_ahead_of_its_model_gives_signs_of_life(node: Made) -> None:
    class Slow(FakeClassifier):
        """Takes so long that all that was asked for has been read."""

        def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
            waits = patience()
            while None in readers._answers.values():
                readers.go_on(0.05)
                waits()
            signs_before.append(signs)
            return super().predict(inputs)

    signs, signs_before = 0, []

    def alive() -> None:
        nonlocal signs
        signs += 1

    with node.database.read() as connection:
        wanted = series.instances_of(connection, 1)
    with closing(SliceReader(Slow(), node.spool, brace_removal="paper", batch=4, readers=2)) as reader:
        readers = reader._readers
        assert readers is not None
        assert sum(map(len, reader.read(iter([wanted]), alive))) == len(wanted)
    assert len(set(signs_before)) == len(signs_before) > 4, "a batch was begun without a sign since the one before"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells how much memory a process has")
@pytest.mark.parametrize(
    ("does", "reason"),
    [
        # 8 GiB, and hardly a page of it is touched
        ("[bytearray(1 << 28) for _ in range(32)]", "Explicit VR Little Endian pixels cannot be decoded (MemoryError)"),
        # the same in C, without a look whether there was any
        ("[ctypes.memset(malloc(1 << 28), 1, 1) for _ in range(32)]", "its pixel data made the reading process end"),
        # for ever, and all but a second of its time has passed
        (
            "signal.getitimer(signal.ITIMER_REAL)[0] and signal.alarm(1); threading.Event().wait()",
            "its pixel data made the reading process end",
        ),
    ],
    ids=["eats memory", "eats memory in C", "waits"],
)
def test_a_decoder_that_eats_memory_or_waits_costs_its_slice(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    poison = node.rows(instances)[9]
    in_processes(POISON.format(uid=poison.sop_instance_uid, does=does), tmp_path / "site", monkeypatch)
    with closing(node.worker(readers=2)) as worker:
        node.work(worker)
    found = node.rows(slice_results)
    assert [(r.instance_id, r.left_out) for r in found if r.left_out] == [(poison.id, reason)]
    assert len(found) == len(head_series())
    assert [(job.state, job.tries) for job in node.rows(jobs_table)] == [("reported", 1)]


def test_readers_end_when_who_made_them_is_killed(node: Made) -> None:
    code = f"""
import os, signal
from pathlib import Path
from dicom_node.working.reading import Way
from dicom_node.working import slices
from dicom_node.config import Model
from dicom_node.working.readers import Readers
from dicom_node.store.spool import Spool
readers = Readers(1, Spool(Path({str(node.spool.folder)!r})), Way("paper", "head-box-224"))
readers.ask({node.rows(instances)[5].file!r})
print(len(readers.answer({node.rows(instances)[5].file!r}, lambda: None)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # Standard error is the reader's too: it is closed, and `run` returns, when both have ended.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"1\n"), done.stderr


def test_who_asks_learns_that_a_reader_ended(node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (row.file for row in node.rows(instances)[:2])
    in_processes(DIES.format(name=first), tmp_path / "site", monkeypatch)
    with closing(Readers(1, node.spool, WAY)) as readers:
        with pytest.raises(ReaderEnded, match="-11"):
            answer(readers, first)
        assert len(answer(readers, second)) == 1


@pytest.mark.parametrize(("ends", "code"), [(DIES, "-11"), (HALF, "7")], ids=["over a file", "half an answer"])
def test_of_three_files_that_a_reader_was_given_the_one_it_ended_over_is_lost_alone(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, code: str
) -> None:
    first, second, third = (row.file for row in node.rows(instances)[:3])
    in_processes(ends.format(name=second), tmp_path / "site", monkeypatch)
    with closing(Readers(1, node.spool, WAY, ahead=3)) as readers:
        for file in (first, second, third):
            readers.ask(file)
        readers.go_on()
        assert len(readers.answer(third, patience())) == 1
        assert len(readers.answer(first, patience())) == 1
        with pytest.raises(ReaderEnded, match=rf"\({code}\)"):
            readers.answer(second, patience())


def test_a_reader_that_hangs_over_one_of_three_files_is_ended_and_the_others_are_read(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = node.rows(instances)[:3]
    hangs = "signal.alarm(1); threading.Event().wait()"
    in_processes(POISON.format(uid=second.sop_instance_uid, does=hangs), tmp_path / "site", monkeypatch)
    with closing(Readers(1, node.spool, WAY, ahead=3)) as readers:
        for row in (first, second, third):
            readers.ask(row.file)
        assert len(readers.answer(first.file, patience())) == 1
        with pytest.raises(ReaderEnded, match=str(-signal.SIGALRM)):
            readers.answer(second.file, patience())
        assert len(readers.answer(third.file, patience())) == 1


def test_what_nobody_asks_for_any_more_is_in_nobodys_way(node: Made) -> None:
    files = [row.file for row in node.rows(instances)[:6]]
    with closing(Readers(1, node.spool, WAY, ahead=2)) as readers:
        for file in files[:4]:
            readers.ask(file)
        readers.go_on()
        readers.forget()
        (found,), (expected,) = answer(readers, files[5]), look_at(node.spool, files[5], WAY)
        assert isinstance(found, Ready)
        assert isinstance(expected, Ready)
        assert found.position_mm == expected.position_mm
        assert len(answer(readers, files[1])) == 1  # asked for again


def test_closing_waits_for_no_file(node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [row.file for row in node.rows(instances)[:3]]
    in_processes(SLOW.format(name=files[1], until=str(tmp_path / "never")), tmp_path / "site", monkeypatch)
    readers = Readers(1, node.spool, WAY, ahead=3)
    for file in files:
        readers.ask(file)
    assert len(readers.answer(files[0], patience())) == 1
    readers.close()  # while the second is read, and the third waits behind it


def test_an_answer_that_could_not_be_taken_is_none_to_the_next_file(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = node.rows(instances)[:3]
    with closing(Readers(1, node.spool, WAY)) as readers:
        answer(readers, third.file)
        with monkeypatch.context() as no_memory:
            no_memory.setattr("dicom_node.working.readers.pickle.loads", lambda _: (_ for _ in ()).throw(MemoryError))
            with pytest.raises(MemoryError):
                answer(readers, one.file)
        (found,) = answer(readers, other.file)
    assert isinstance(found, Ready)
    assert found.instance_number == other.facts["instance_number"] != one.facts["instance_number"]


def test_an_answer_for_another_file_is_none(node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_processes(STRAYS, tmp_path / "site", monkeypatch)
    with closing(Readers(1, node.spool, WAY)) as readers, pytest.raises(RuntimeError, match="another file"):
        answer(readers, node.rows(instances)[0].file)


def test_a_reader_that_was_killed_before_it_could_start_costs_nothing(node: Made) -> None:
    file = node.rows(instances)[0].file
    with closing(Readers(2, node.spool, WAY)) as readers:
        for process in readers._processes:
            assert process._process is not None
            process._process.kill()
        assert len(answer(readers, file)) == 1


def test_readers_that_cannot_start_fail_each_try_and_not_the_first_alone(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second waits for them without end, and no report says that nothing was evaluated."""
    in_processes("import os; os._exit(3)", tmp_path / "site", monkeypatch)
    file = node.rows(instances)[0].file
    with closing(Readers(1, node.spool, WAY)) as readers:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cannot start"):
                answer(readers, file)
            readers.forget()


def test_what_is_asked_for_again_may_be_longer_than_a_pipe(node: Made) -> None:
    """Whoever asks and whoever answers must not wait for each other to read."""
    files = [row.file for row in node.rows(instances)]
    often = tuple((at % 2, 1.0) for at in range(2_000))
    runs = [Again(((one, 0), (other, 0)), (Wanted(0, often),) * 12) for one, other in itertools.pairwise(files)]
    assert min(len(run.line()) for run in runs) > 1 << 17
    assert [Again.of(run.line()) for run in runs[:2]] == runs[:2]
    with closing(Readers(1, node.spool, WAY, ahead=3)) as readers:
        for file in files[:3]:
            readers.ask(file)
        for run in runs[:3]:
            readers.ask(run.line())
        for file in files[:3]:
            assert isinstance(readers.answer(file, patience())[0], Ready)
        for run in runs[:3]:
            one, *_ = readers.answer(run.line(), patience())
            assert isinstance(one, Ready)
            assert one.averaged == len(often)


def test_what_is_looked_at_again_is_read_once_and_within_bounds(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [row.file for row in node.rows(instances)][:6]
    slabs = [Wanted(at, tuple((i, 1.0) for i in (at - 1, at, at + 1))) for at in range(1, 5)]
    bounds: list[int] = []
    inside = 0

    @contextmanager
    def bounded() -> Iterator[None]:
        nonlocal inside
        inside += 1
        bounds.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        yield
        inside -= 1

    read: list[str] = []
    decode = CTObject.slice

    def decoded(self: CTObject, index: int) -> CTSlice:
        assert inside == 1
        if platform.system() == "Linux":
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
        read.append(str(self._dataset.SOPInstanceUID))
        return decode(self, index)

    monkeypatch.setattr(CTObject, "slice", decoded)
    found = list(look_again(node.spool, Again(tuple((file, 0) for file in files), tuple(slabs)), WAY, bounded))
    assert [one.averaged for one in found if isinstance(one, Ready)] == [3, 3, 3, 3]
    assert len(read) == len(set(read)) == 6
    assert len(bounds) == 6 + 4
