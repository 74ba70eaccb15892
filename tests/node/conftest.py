"""The other side of storage commitment, and our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from committing import Other

from dicom_node.config import Config, NodeSection
from dicom_node.network import commitment as network
from dicom_node.network import scp
from dicom_node.network.commitment import Report


@pytest.fixture
def committing_peer() -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def make(**given: Any) -> Other:
        made.append(Other(**given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def committing_receiver() -> Iterator[Callable[..., int]]:
    """A receiver that offers storage commitment; its port."""
    started: list[scp.Receiver] = []

    def start(on_report: Callable[[Report], None], on_request: Any = None, port: int = 0) -> int:
        config = Config(node=NodeSection(ae_title="NODE", allowed_senders=("PACS", "ORTHANC")))
        offered = [network.service(on_report, on_request)]
        one = scp.Receiver(lambda _: 0, scp.rules_of(config), bind="127.0.0.1", port=port, services=offered)  # type: ignore[arg-type, return-value]
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()
