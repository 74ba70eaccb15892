"""Python imports this at its start where this folder is on PYTHONPATH: three wishes of a test to the node's processes.

DICOM_NODE_DIE_BY     a file: `3 before fsync` ends the process that comes to that step for the third time
DICOM_NODE_CLOCK      a file: seconds by which the clock is put on (or back), looked up at every glance at it
DICOM_NODE_STAND_IN   the probability of hemorrhage that a stand-in for the model gives; torch is not imported then
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def _shift_clock(file: Path) -> None:
    true_time = time.time

    def shifted() -> float:
        try:
            return true_time() + float(file.read_text() or 0.0)
        except FileNotFoundError:
            return true_time()

    time.time = shifted


def stand_in(presence: float) -> None:
    import numpy as np

    from dicom_node.cli.common import describe_checkpoint
    from dicom_node.working import process as worker_process

    class StandIn:
        device = "none"
        precision = "fp32"
        aside = False

        def __init__(self, checkpoint):  # type: ignore[no-untyped-def]
            self.checkpoint = checkpoint

        def predict(self, inputs):  # type: ignore[no-untyped-def]
            self.presence = np.full(len(inputs), presence)
            self.location = np.tile([0.7, 0.2, 0.1], (len(inputs), 1))
            return self

    worker_process.load_classifier = lambda config: StandIn(describe_checkpoint(config.model.checkpoint))


_command = sys.orig_argv[sys.orig_argv.index("dicom_node") + 1 :][:1] if "dicom_node" in sys.orig_argv else []
if "DICOM_NODE_CLOCK" in os.environ:
    _shift_clock(Path(os.environ["DICOM_NODE_CLOCK"]))
if _command == ["worker"] and "DICOM_NODE_STAND_IN" in os.environ:
    stand_in(float(os.environ["DICOM_NODE_STAND_IN"]))
if _command in (["serve"], ["worker"]) and "DICOM_NODE_DIE_BY" in os.environ:
    import dying_steps

    _process = dying_steps.RECEIVER if _command == ["serve"] else dying_steps.WORKER
    dying_steps.arm(Path(os.environ["DICOM_NODE_DIE_BY"]), _process)
