"""The process around the worker: loads the model once, works until told to stop, gives signs of life on stdout.

Its settings are the first line of its standard input. It stops when that ends, which happens when the service stops it
and when the service dies.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from dicom_node.config import Config
from dicom_node.configfile import from_line
from dicom_node.errors import ConfigError, NodeError, StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.store.opening import open_store
from dicom_node.working.allocation import keep_memory
from dicom_node.working.supervisor import ALIVE, DONE
from dicom_node.working.worker import Node, Worker

if TYPE_CHECKING:
    from dtvit.inference import Classifier

log = logging.getLogger("dicom_node.worker")

IDLE_S = 0.1
MOST_READERS = 16  # some 2,000 slices a second, as many as a GPU classifies with a ViT-L


def given_settings() -> Config | None:
    """What `serve` was started with; None if it ended before it said so. Raises ConfigError."""
    line = b""
    while not line.endswith(b"\n"):  # nothing follows it
        if not (part := os.read(sys.stdin.fileno(), 1 << 16)):
            return None
        line += part
    return from_line(line)


def work(config: Config, owner: str) -> NoReturn:
    """Work until told to stop, then end the process. If anything ends it before, exit status 1, the log says what."""
    stopping = threading.Event()
    working = threading.Event()
    threading.Thread(target=_wait_for_end_of_input, args=(stopping, working), daemon=True).start()
    try:
        _work(config, owner, stopping, working)
    except NodeError as exc:
        log.error("cannot_work %s", fields(reason=exc))
        _end(1)
    except Exception as exc:  # noqa: BLE001 - outermost line of the process
        log.error("fault %s", fields(part="worker", error=trace(exc)))
        _end(1)
    _end(0)


def _work(config: Config, owner: str, stopping: threading.Event, working: threading.Event) -> None:
    """Until `stopping` is set. Raises ConfigError where the model cannot be used as configured, and ModelFailed."""
    with contextlib.suppress(OSError):
        os.nice(19)  # receiving goes before classifying: a sender is waiting, a report can wait a moment
    keep_memory()
    database, spool = open_store(config)
    classifier = load_classifier(config)
    working.set()
    worker = Worker(
        database,
        spool,
        classifier,
        config,
        node=Node(database.device_uid(), config.node.ae_title),
        owner=owner,
        readers=reading_processes(config),
        alive=_sign_of_life,
        stopping=stopping.is_set,
    )
    about = {"device": classifier.device, "precision": classifier.precision}
    gc.freeze()  # what was imported and loaded stays: scanning it takes 0.1 s each time
    log.info("worker_ready %s", fields(pid=os.getpid(), **about, checkpoint=classifier.checkpoint.metadata.name))
    while not stopping.is_set():
        _sign_of_life()
        try:
            busy = worker.step()
        except (StoreFull, StoreUnavailable) as exc:
            log.error("waits %s", fields(part="worker", reason=exc))
            stopping.wait(5.0)
            continue
        if busy:
            _sign_of_life(DONE)
        else:
            stopping.wait(IDLE_S)
    spool.close()
    database.close()


def load_classifier(config: Config) -> Classifier:
    """The configured checkpoint on the configured device. Raises ConfigError."""
    from dtvit import preprocess
    from dtvit.checkpoint import UnusableCheckpoint
    from dtvit.inference import Classifier, UnavailableDevice

    begun = time.monotonic()
    try:
        classifier = Classifier.load(
            config.model.checkpoint,
            config.model.device,
            threads=config.model.threads or None,
            batch=config.model.batch,
            precision=config.model.precision,
            preprocessing=preprocess.offered(config.model.brace_removal),
        )
    except UnusableCheckpoint as exc:
        raise ConfigError(f"model.checkpoint: {exc}") from exc
    except UnavailableDevice as exc:
        raise ConfigError(f"model.device: {exc}") from exc
    classifier.warm_up()
    log.debug("model_loaded %s", fields(took_s=time.monotonic() - begun))
    return classifier


def reading_processes(config: Config) -> int:
    if config.model.readers != "auto":
        return config.model.readers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_READERS)


def _sign_of_life(sign: bytes = ALIVE) -> None:
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), sign)


def _wait_for_end_of_input(stopping: threading.Event, working: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 1):  # not through its buffer, which is locked while this waits, even at exit
            pass
    stopping.set()
    if not working.is_set():  # still importing torch or loading weights: nothing is leased, nothing can be lost
        _end(0)


def _end(code: int) -> NoReturn:
    """Exit at once: tearing torch down takes seconds, and all that matters is in the database."""
    logging.shutdown()
    os._exit(code)
