"""Slices a second from DICOM files to stored probabilities, beside the bare forward pass, which is the limit.

    python benchmarks/inference.py [--quick] [--encoders vit_tiny_patch16_224,..] [--device cpu] [--readers 2]

What is measured is the node's own worker on a store of its own: series of phantom slices (512 x 512 x 16 bit) are
accepted as if they had been sent, and `Worker.step` is called until every slice has its row: looking for work, reading,
removing the head holder, model, transaction. The bare forward is timm's encoder alone on pictures in memory: same
precision, batch and threads, weights in that precision, nothing else. Both take turns, a block each; the ratio is the
median of the turns'. Processor time is that of all processes of a block, so that it means something on a busy machine
too. Weights are random: speed does not depend on them. Then the same for each transfer syntax that can be encoded here,
with the smallest encoder, and last, with the shipped checkpoint, how far bf16 is from fp32.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from benchmarks.our_path import PREPROCESSING, SYNTAXES, OurPath, slices  # isort: skip  # noqa: E402 - sets what torch reads

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from made import encoded, received  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from untrained import untrained_checkpoint  # noqa: E402

from dicom_node.config import Model  # noqa: E402
from dicom_node.store.tables import jobs  # noqa: E402
from dicom_node.working import reading  # noqa: E402
from dicom_node.working.allocation import keep_memory  # noqa: E402
from dtvit import preprocess  # noqa: E402
from dtvit.inference import Classifier, Precision, Predictions  # noqa: E402
from train.options import positive  # noqa: E402

ENCODERS = tuple(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large"))
BLOCK = {"tiny": 192, "small": 96, "base": 48, "large": 16}
"""Slices a block on a CPU."""
ON_GPU = 8192
"""Slices a block there, some seconds: at its beginning the GPU waits for a batch to be read."""


def bare(encoder: str, precision: str, device: torch.device, batch: int, count: int) -> Callable[[], int]:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = timm.create_model(encoder, num_classes=0).eval().to(device, dtype)
    images = torch.randn(batch, 3, 224, 224).to(device, dtype)

    def block() -> int:
        with torch.inference_mode():
            for _ in range(count // batch):
                model(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return count // batch * batch

    return block


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[list[int]]:
    """Appends seconds a slice, of the clock and of all processors; the block says how many slices it had."""
    count: list[int] = []
    cpu, at = processor_s(), time.perf_counter()
    yield count
    took, used = time.perf_counter() - at, processor_s() - cpu
    into.append((took / count[0], used / count[0]))


def processor_s() -> float:
    """Of this process and of those that it started and that live, where the system tells (Linux)."""
    used = time.process_time()
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return used


def side_by_side(path: OurPath, limit: Callable[[], int], rounds: int) -> str:
    """Columns of the table."""
    limit(), path()  # kernels chosen, memory taken
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for turn in range(rounds):
        for mine in (True, False) if turn % 2 else (False, True):
            path.forget()
            with timed(ours if mine else theirs) as count:
                count.append(path() if mine else limit())
    wall = [statistics.median(b[0] / a[0] for a, b in zip(ours, theirs, strict=True))]
    used = [statistics.median(b[1] / a[1] for a, b in zip(ours, theirs, strict=True))]
    rate = [1.0 / statistics.median(t for t, _ in times) for times in (theirs, ours)]
    cpu_ms = [1000.0 * statistics.median(c for _, c in times) for times in (theirs, ours)]
    return f"{rate[0]:.1f} | {rate[1]:.1f} | {wall[0]:.2f} | {cpu_ms[0]:.1f} | {cpu_ms[1]:.1f} | {used[0]:.2f} |"


def apart(path: OurPath, count: int) -> str:
    """Slices a second of what the path consists of, each alone: the model, and all else."""
    inputs = np.random.default_rng(0).integers(0, 256, (count, 224, 224), np.uint8)
    path.classifier.predict(inputs)
    at = time.perf_counter()
    path.classifier.predict(inputs)
    model = count / (time.perf_counter() - at)
    answer = path.classifier.predict(inputs[:1])
    path.classifier.predict = lambda given: Predictions(  # type: ignore[method-assign]
        answer.presence.repeat(len(given)), answer.location.repeat(len(given), 0)
    )
    path.forget()
    at = time.perf_counter()
    return f"the model alone {model:.1f} slices/s, all else alone {path() / (time.perf_counter() - at):.1f}"


def prepared_ms(path: OurPath) -> float:
    """Reading and preparing alone, in this process, with the threads that a decoder may start."""
    way, times = reading.Way("robust", preprocess.HEAD_BOX), []
    cv2.setNumThreads(1)  # as in a process that reads
    for file in path.files[:38]:
        at = time.process_time()
        list(reading.look_at(path.spool, file, way))
        times.append(time.process_time() - at)
    return 1000.0 * statistics.median(times)


def memory(lengths: Sequence[int]) -> None:
    """Peak memory of a process that classifies one series of so many slices and makes its report, each on its own."""
    print("| slices of one series | MiB before the first | at most | seconds |")
    print("| --- | --- | --- | --- |")
    for length in lengths:
        command = [sys.executable, __file__, "--one-series", str(length)]
        print(f"| {length} | {subprocess.check_output(command, text=True).strip()} |", flush=True)


def one_series(length: int) -> None:
    """With the shipped checkpoint: columns of the table. Linux alone tells of a peak since some moment."""

    def peak_mib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) >> 10

    with (
        tempfile.TemporaryDirectory(prefix="inference-") as temporary,
        closing(OurPath(Path(temporary), slices()[:length], length, Model(), series=1)) as path,
    ):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of making phantoms does not count
        before, begun = peak_mib(), time.perf_counter()
        path.arrivals.tick()
        path.ahead_s = 3600.0
        path.arrivals.tick()
        path()
        with path.database.read() as connection:
            states = [row.state for row in connection.execute(jobs.select())]
        if states != ["delivered"]:
            raise SystemExit(f"the series has no report: {states}")
        print(f"{before} | {peak_mib()} | {time.perf_counter() - begun:.0f}")


def disagreement(datasets: Sequence[Dataset], folder: Path | None, device: str) -> str:
    """Of the shipped checkpoint, over phantom slices, or those found under `folder`."""
    from dtvit import ct
    from dtvit.reading.headervalues import UnreadableSlice

    exact, fast = (Classifier.load(device=device, precision=p) for p in ("fp32", "bf16"))
    geometry = preprocess.geometry_of(exact.checkpoint.metadata.preprocessing)
    sources: list[Path | bytes] = [received(ds).meta + encoded(ds) for ds in datasets]
    if folder is not None:
        sources = sorted(folder.rglob("*.dcm"))
    inputs = []
    for source in sources:
        try:
            inputs += [preprocess.prepare(one, geometry=geometry).input for one in ct.CTObject(source)]
        except UnreadableSlice as exc:
            print(f"left out: {exc}", file=sys.stderr)
    a, b = exact.predict(np.stack(inputs)), fast.predict(np.stack(inputs))
    presence, location = np.abs(a.presence - b.presence), np.abs(a.location - b.location)
    return (
        f"bf16 against fp32, shipped checkpoint, {len(inputs)} slices: presence off by {presence.max():.4f} at most, "
        f"{presence.mean():.5f} in the mean; location by {location.max():.4f} at most"
    )


class Runs:
    """What is run side by side, as asked for on the command line."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder, self.datasets = given, folder, slices()
        self.number = 0
        on_gpu = torch.cuda.is_available() and given.device == "auto"
        self.devices = ["cpu", *(["cuda"] if on_gpu else [])] if given.device == "auto" else [given.device]
        self.encoders = given.encoders.split(",")[: 1 if given.quick else None]
        self.precisions: list[Precision] = given.precisions.split(",")
        self.rounds = 1 if given.quick else given.rounds
        chosen = SYNTAXES[: 2 if given.quick else None]
        self.syntaxes = [each for each in chosen if given.syntaxes in ("all", each.keyword)]

    def batch(self, device: str) -> int:
        return self.given.batch or (16 if device == "cpu" else 64)

    def count(self, encoder: str, device: str) -> int:
        """Slices a block, in whole batches."""
        batch = self.batch(device)
        wanted = next(n for size, n in BLOCK.items() if size in encoder) if device == "cpu" else ON_GPU
        wanted //= 4 if self.given.quick else 1
        return max(2 * batch, wanted // batch * batch)

    def columns(
        self, encoder: str, precision: Precision, device: str, syntax: uid.UID = SYNTAXES[0]
    ) -> tuple[float, str]:
        """Milliseconds of reading and preparing alone, and the columns of the table."""
        self.number += 1
        folder, batch, count = self.folder / str(self.number), self.batch(device), self.count(encoder, device)
        folder.mkdir()
        file = untrained_checkpoint(folder / "model.safetensors", encoder=encoder, preprocessing=PREPROCESSING)
        model = Model(
            checkpoint=file,
            device=device,
            precision=precision,
            batch=batch,
            threads=self.given.threads,
            readers="auto" if self.given.readers < 0 else self.given.readers,
        )
        with closing(OurPath(folder / "data", self.datasets, count, model, syntax)) as path:
            limit = bare(encoder, precision, torch.device(device), batch, count)
            found = prepared_ms(path), side_by_side(path, limit, self.rounds)
            if self.given.apart:
                print(f"{encoder}, {precision}, {device}: {apart(path, count)}", file=sys.stderr)
            return found

    def print_tables(self) -> None:
        figures = "slices/s bare | ours | ratio | processor ms a slice, bare | ours | ratio |"
        print(f"| device | encoder | precision | batch | {figures}\n|{' --- |' * 10}", flush=True)
        for device in self.devices:
            for encoder in self.encoders:
                for precision in self.precisions:
                    _, columns = self.columns(encoder, precision, device)
                    print(f"| {device} | {encoder} | {precision} | {self.batch(device)} | {columns}", flush=True)
        if self.syntaxes:
            print(f"\n| transfer syntax | reading and preparing, processor ms | {figures}\n|{' --- |' * 8}")
        for syntax in self.syntaxes:
            alone, columns = self.columns(self.encoders[0], self.precisions[-1], self.devices[-1], syntax)
            print(f"| {syntax.name} | {alone:.1f} | {columns}", flush=True)
        print(f"\n{disagreement(self.datasets, self.given.folder, self.devices[0])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest encoder alone, few slices, one turn")
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--syntaxes", default="all", help="one of them by its keyword, as RLELossless, or none")
    parser.add_argument("--apart", action="store_true", help="also what the path consists of, each part alone")
    parser.add_argument("--device", default="auto", help="auto: the CPU, and CUDA where there is one")
    parser.add_argument("--batch", type=int, default=0, help="16 on a CPU, 64 on a GPU")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--readers", type=int, default=-1, help="-1: the node's choice")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--folder", type=Path, help="CT to compare bf16 with fp32 on; phantoms without it")
    parser.add_argument("--memory", action="store_true", help="instead: peak memory for series of 30, 300, 3000 slices")
    parser.add_argument("--one-series", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_memory()  # as in the worker
    if given.one_series:
        one_series(given.one_series)
    elif given.memory:
        memory((30, 300) if given.quick else (30, 300, 3000))
    else:
        threads = given.threads or torch.get_num_threads()
        machine = f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, torch {torch.__version__}, {threads} threads\n")
        with tempfile.TemporaryDirectory(prefix="inference-") as temporary:
            Runs(given, Path(temporary)).print_tables()


if __name__ == "__main__":
    main()
