"""By default a destination gets report and picture, and the job is delivered when both are stored."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset
from running import RunningNode, store

from dicom_node.network.stand_in import StandInPacs

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def test_the_picture_follows_the_report(
    make_node: Callable[..., RunningNode], pacs: StandInPacs, series: list[Dataset]
) -> None:
    node = make_node(objects=("report", "picture"))
    node.start()
    store(node, series, node.folder / "ct")
    node.until(lambda: "state=delivered" in node.log, "everything owed is stored")
    assert [stored.sop_class_uid for stored in pacs.stored] == [COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE]
    withdrawn = node.command("withdraw", "1", "--why", "a test")
    assert withdrawn.returncode == 0, withdrawn.stderr
    assert "PACS1 keeps what it has" in withdrawn.stdout
