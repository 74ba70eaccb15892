"""How many slices a second one worker process can feed to a GPU, measured without one.

    python benchmarks/feeding.py [--slices 2048] [--device-ms 18] [--launches 1800] [--rounds 5]

All the node's own but two ends. The model is a stand-in for a device with a queue: asked for a batch, it launches small
kernels by torch for as long as a ViT-L needs to launch its own (each gives the interpreter's lock away and wants it
back, as they do), and answers `--device-ms` after the first launch or after the batch before, whichever is later. The
reading processes read one file and give that answer for every other, so that the worker process is the limit and not
the cores of this machine. What is printed: slices a second as a share of the device's, and the processor time that the
worker process takes a slice, all its threads and the launches in it, and what of that its main thread takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from benchmarks.our_path import PREPROCESSING, OurPath, slices  # isort: skip  # noqa: E402 - sets what torch reads

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402
from untrained import untrained_checkpoint  # noqa: E402

from dicom_node.config import Model  # noqa: E402
from dicom_node.working.allocation import keep_memory  # noqa: E402
from dtvit.inference import Classifier, Predictions  # noqa: E402
from train.options import positive  # noqa: E402

BATCH = 64
AT_ONCE = """
import sys
if "dicom_node.working.readers" in sys.orig_argv:
    from dicom_node.working import reading
    look_at, known = reading.look_at, []
    def at_once(*given):
        if not known:
            known.extend(look_at(*given))
        yield from known
    reading.look_at = at_once
"""


class Device:
    """Of batches that are begun one after the other and computed in that order."""

    def __init__(self, batch_s: float, launches: int) -> None:
        self._batch_s, self._launches = batch_s, launches
        self._free_at, self._turn = 0.0, Lock()

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        with self._turn:
            pixels = torch.from_numpy(inputs).clone()  # into pinned memory
            begun = time.perf_counter()
            self._launch()
            done = self._free_at = max(begun, self._free_at) + self._batch_s * len(pixels) / BATCH
        time.sleep(max(0.0, done - time.perf_counter()))
        return Predictions(np.full(len(inputs), 0.5), np.full((len(inputs), 3), 1 / 3))

    @torch.inference_mode()
    def _launch(self) -> None:
        one = torch.ones(8, 8)
        for _ in range(self._launches):
            torch.relu(torch.mul(torch.add(one, one), one))


def alone(device: Device) -> float:
    """Slices a second of one batch after the other."""
    batches, inputs = 20, np.zeros((BATCH, 224, 224), np.uint8)
    at = time.perf_counter()
    for _ in range(batches):
        device.predict(inputs)
    return batches * BATCH / (time.perf_counter() - at)


def fed(path: OurPath) -> tuple[float, float, float]:
    """Slices a second; milliseconds a slice of this process, and of its main thread."""
    path.forget()
    used, of_main, at = time.process_time(), time.thread_time(), time.perf_counter()
    while path.worker.step():
        pass
    took, count = time.perf_counter() - at, len(path.files)
    times = time.process_time() - used, time.thread_time() - of_main
    path()  # were all of them classified
    return count / took, 1000.0 * times[0] / count, 1000.0 * times[1] / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=positive, default=2048)
    parser.add_argument("--device-ms", type=float, default=18.0, help="for 64 slices; a ViT-L on an H200 takes 18")
    parser.add_argument("--launches", type=int, default=1800, help="of three small kernels each")
    parser.add_argument("--readers", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--folder", type=Path, help="for the store, half a megabyte a slice")
    given = parser.parse_args()
    keep_memory()  # as in the worker
    torch.set_num_threads(1)
    device = Device(given.device_ms / 1000.0, given.launches)
    Classifier.aside = property(lambda _: True)  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory(prefix="feeding-", dir=given.folder) as temporary:
        folder = Path(temporary)
        (folder / "sitecustomize.py").write_text(AT_ONCE)
        os.environ["PYTHONPATH"] = os.pathsep.join([temporary, str(REPOSITORY)])
        file = untrained_checkpoint(folder / "model.safetensors", preprocessing=PREPROCESSING)
        model = Model(checkpoint=file, device="cpu", batch=BATCH, readers=given.readers)
        with closing(OurPath(folder / "data", slices(), given.slices, model)) as path:
            path.classifier.predict = device.predict  # type: ignore[method-assign]
            path()
            limit = 1000.0 * BATCH / given.device_ms
            load = f"load {os.getloadavg()[0]:.1f}"
            print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {load}; the device: {limit:.0f} slices/s,")
            print(f"{alone(device):.0f} asked for one batch after the other\n")
            rounds = [fed(path) for _ in range(given.rounds)]
    rate, process_ms, main_ms = (statistics.median(figures) for figures in zip(*rounds, strict=True))
    print(f"| slices/s | of the device's | worker process, ms a slice | its main thread |\n|{' ---: |' * 4}")
    print(f"| {rate:.0f} | {rate / limit:.2f} | {process_ms:.3f} | {main_ms:.3f} |")


if __name__ == "__main__":
    main()
