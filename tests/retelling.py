"""A scan (`ways.Scan`) told in one of its ways (`ways.Telling`): from planes to the objects that a node receives."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from made import SERIES, changed, head_series, received
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from ways import COMPRESSED, IN_GROUPS, NAME, ODD, UNDECLARED_UTF_8, Plane, Scan, Stored, Telling, laid, outside

from dicom_node.received import Received


@cache
def _template() -> Dataset:
    return head_series()[0]


def told(scan: Scan, way: Telling) -> list[Received]:
    """The objects in the order in which they come."""
    first = _objects(scan, way)
    second = first if way.again_in is None else _objects(scan, replace(way, syntax=way.again_in))
    by_chance = np.random.default_rng(way.order)
    order = by_chance.permutation(len(first)) if way.order else range(len(first))
    messages = [first[i] for i in order] + [second[i] for i in by_chance.integers(0, len(first), way.again)]
    return [
        replace(one, association=1 + i % way.associations, calling_aet=f"CT{1 + i % way.associations}")
        for i, one in enumerate(messages)
    ]


def _objects(scan: Scan, way: Telling) -> list[Received]:
    made = _enhanced(scan, way) if way.parts else [_single(scan, i, way) for i in range(len(scan.planes))]
    for number, ds in enumerate(made):
        _dress(ds, number, len(made), scan, way)
    plain = _single(scan, 0, Telling())
    plain.PatientName = NAME
    beside = [ds for name in way.beside for ds in _BESIDE[name](plain)]
    return [_encoded(ds, way) for ds in made] + [received(ds) for ds in beside]


def _single(scan: Scan, index: int, way: Telling) -> Dataset:
    ds = changed(_template(), SOPInstanceUID=f"{SERIES}.{index + 1}", SliceThickness=scan.thickness_mm)
    for keyword, value in _place(scan, index, way).items():
        setattr(ds, keyword, value)
    ds.RescaleSlope, ds.RescaleIntercept = _rescale(index, way.stored)
    ds.ConvolutionKernel, ds.RescaleType, ds.ImageType = scan.kernel, scan.unit, ["ORIGINAL", "PRIMARY", scan.kind]
    if scan.agent:
        ds.ContrastBolusAgent = "OMNIPAQUE"
    _pixels(ds, scan, [index], way)
    return ds


def _place(scan: Scan, index: int, way: Telling) -> dict[str, Any]:
    (row_x, row_y), (column_x, column_y) = way.lies[index % len(way.lies)]
    plane, (down_mm, across_mm) = scan.planes[index], scan.pixel_mm
    across, down = map(np.array, scan.axes)
    rows, columns = plane.hu.shape
    corner = plane.corner + np.array(way.moved_mm)
    if row_x + column_x < 0:
        corner = corner + across * across_mm * (columns - 1)
    if row_y + column_y < 0:
        corner = corner + down * down_mm * (rows - 1)
    orientation = [*(row_x * across + row_y * down), *(column_x * across + column_y * down)]
    return {
        "ImagePositionPatient": [way.number.format(v)[:16] for v in corner],
        "ImageOrientationPatient": [f"{v:.6f}" for v in orientation],
        "PixelSpacing": list(scan.pixel_mm if column_y else scan.pixel_mm[::-1]),
    }


def _rescale(index: int, of: Stored) -> tuple[str, str]:
    slope, intercept = of.rescales[index % len(of.rescales)]
    return f"{slope:g}", f"{intercept:g}"


def _pixels(ds: Dataset, scan: Scan, at: Sequence[int], way: Telling) -> None:
    of = way.stored
    frames = [_stored(scan.planes[index], index, way) for index in at]
    ds.Rows, ds.Columns = frames[0].shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = of.allocated, of.bits, of.bits - 1 + of.raised
    ds.PixelRepresentation = int(of.signed)
    ds.PhotometricInterpretation = "MONOCHROME1" if of.upside_down else "MONOCHROME2"
    if of.unused == "overlay":
        ds.add_new(0x60000010, "US", ds.Rows)
        ds.add_new(0x60000011, "US", ds.Columns)
        ds.add_new(0x60000040, "CS", "G")
        ds.add_new(0x60000050, "SS", [1, 1])
        ds.add_new(0x60000100, "US", of.allocated)
        ds.add_new(0x60000102, "US", of.allocated - 1)
    if of.padding is not None:
        for keyword, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), of.pads, strict=True):
            if keyword == "PixelPaddingValue" or of.padding_range:
                least = 0 if of.padding == "US" else -32768
                told_as = value % 65536 if least == 0 else (value + 32768) % 65536 - 32768
                ds.add_new(pydicom.datadict.tag_for_keyword(keyword), of.padding, told_as)
    order = ">" if way.syntax == uid.ExplicitVRBigEndian else "<"
    plain = [np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder(order)).tobytes() for frame in frames]
    if way.syntax not in COMPRESSED:
        ds.add_new("PixelData", "OW", b"".join(plain) + b"\1" * way.excess)
        return
    packed = [_packed(frame.tobytes(), frame.shape, of, way.syntax) for frame in map(np.ascontiguousarray, frames)]
    if way.offsets == "extended" and way.fragments == 1:
        pixels, offsets, lengths = encapsulate_extended(packed)
        ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets, lengths
    else:
        pixels = encapsulate(packed, fragments_per_frame=way.fragments, has_bot=way.offsets == "basic")
    ds.add_new("PixelData", "OB", pixels)
    ds["PixelData"].is_undefined_length = True


def _stored(plane: Plane, index: int, way: Telling) -> npt.NDArray[Any]:
    of = way.stored
    slope, intercept = of.rescales[index % len(of.rescales)]
    values = (plane.hu - intercept) / slope
    assert (values == np.rint(values)).all()
    whole = values.astype(np.int64)
    if of.padding is not None:
        rows, columns = np.indices(whole.shape)
        first, last = of.pads
        whole = np.where(outside(whole.shape), first + (rows + columns) % (last - first + 1), whole)
    if of.unused == "extended":
        whole = whole & ((1 << of.bits) - 1)
    whole = whole << of.raised
    if of.raised:
        whole = whole | (np.indices(whole.shape).sum(0) & ((1 << of.raised) - 1))
    if of.unused == "overlay":
        whole = np.where(
            np.indices(whole.shape)[0] % 3 == 0, whole | 1 << of.allocated - 1, whole & ((1 << of.allocated - 1) - 1)
        )
    bits = (whole & ((1 << of.allocated) - 1)).astype(f"<u{of.allocated // 8}").view(of.kind)
    return laid(bits, way.lies[index % len(way.lies)])


@cache
def _packed(plain: bytes, shape: tuple[int, int], of: Stored, syntax: str) -> bytes:
    """One frame, compressed."""
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = uid.CTImageStorage, SERIES
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = of.allocated if syntax == uid.RLELossless else of.bits  # RLE packs unused bits too
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = of.allocated, bits, bits - 1
    ds.PixelRepresentation = int(of.signed)
    ds.add_new("PixelData", "OW", plain)
    if syntax != uid.JPEGLosslessSV1:
        ds.compress(syntax, generate_instance_uid=False)
        return next(generate_frames(ds.PixelData, number_of_frames=1))
    return _by_gdcm(ds)


def _by_gdcm(ds: Dataset) -> bytes:
    """Lossless JPEG, which pydicom does not write."""
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "plain", Path(folder) / "packed"
        ds.save_as(before, enforce_file_format=True)
        source, change, target = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        source.SetFileName(str(before))
        assert source.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(source.GetImage())
        assert change.Change()
        target.SetFileName(str(after))
        target.SetFile(source.GetFile())
        target.SetImage(change.GetOutput())
        assert target.Write()
        return next(generate_frames(pydicom.dcmread(after).PixelData, number_of_frames=1))


def _enhanced(scan: Scan, way: Telling) -> list[Dataset]:
    """The planes, in the order of `way.order`, as frames of so many objects."""
    at = np.random.default_rng(way.order).permutation(len(scan.planes)) if way.order else np.arange(len(scan.planes))
    made: list[Dataset] = []
    before = 0
    for number, part in enumerate(np.array_split(at, way.parts), start=1):
        ds = changed(_template(), SOPInstanceUID=f"{SERIES}.{number}", SOPClassUID=uid.EnhancedCTImageStorage)
        for keyword in IN_GROUPS:
            if keyword in ds:
                delattr(ds, keyword)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME" if scan.kind == "AXIAL" else scan.kind, "NONE"]
        if scan.agent:
            ds.ContrastBolusAgentSequence = Items([_item({"CodeValue": "1", "CodeMeaning": "agent"})])
        ds.NumberOfFrames = len(part)
        shared, each = Dataset(), [Dataset() for _ in part]
        for index, own in zip(part, each, strict=True):
            for name, (alike, values) in _groups(scan, int(index), way).items():
                setattr(shared if alike and not way.per_frame else own, name, Items([_item(values)]))
        ds.SharedFunctionalGroupsSequence = Items([shared])
        ds.PerFrameFunctionalGroupsSequence = Items(each)
        if way.concatenated:
            ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = f"{SERIES}.77", f"{SERIES}.78"
            ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number, way.parts
            ds.ConcatenationFrameOffsetNumber = before
        before += len(part)
        _pixels(ds, scan, [int(index) for index in part], way)
        made.append(ds)
    return made


def _groups(scan: Scan, index: int, way: Telling) -> dict[str, tuple[bool, dict[str, Any]]]:
    """The functional groups of a frame; for each, whether it is the same in all."""
    place = _place(scan, index, way)
    slope, intercept = _rescale(index, way.stored)
    frame_type = ["ORIGINAL", "PRIMARY", "VOLUME" if scan.kind == "AXIAL" else scan.kind, "NONE"]
    pixels = {"PixelSpacing": place["PixelSpacing"], "SliceThickness": scan.thickness_mm}
    values = {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": scan.unit}
    return {
        "PlanePositionSequence": (False, {"ImagePositionPatient": place["ImagePositionPatient"]}),
        "PlaneOrientationSequence": (
            len(way.lies) == 1,
            {"ImageOrientationPatient": place["ImageOrientationPatient"]},
        ),
        "PixelMeasuresSequence": (True, pixels),
        "CTReconstructionSequence": (True, {"ConvolutionKernel": scan.kernel}),
        "CTImageFrameTypeSequence": (True, {"FrameType": frame_type, "VolumetricProperties": "VOLUME"}),
        "PixelValueTransformationSequence": (len(way.stored.rescales) == 1, values),
    }


def _item(values: dict[str, Any]) -> Dataset:
    return changed(Dataset(), **values)


def _dress(ds: Dataset, index: int, count: int, scan: Scan, way: Telling) -> None:
    """What does not depend on the pixels."""
    at_random = np.random.default_rng(5).permutation(count)
    number = {
        "upwards": index + 1,
        "downwards": count - index,
        "alike": 1,
        "across a thousand": 995 + index,
        "at random": int(at_random[index]) + 1,
        "below zero": index - count // 2,
        "empty": "",
    }.get(way.numbered)
    if number is None:
        del ds.InstanceNumber
    else:
        ds.InstanceNumber = number
    charset = way.names[index % len(way.names)]
    ds.SpecificCharacterSet = charset.split("\\") if charset and charset != UNDECLARED_UTF_8 else None
    name = NAME.encode().decode("latin-1") if charset == UNDECLARED_UTF_8 else NAME
    ds.PatientName = name + way.delimiters[index % len(way.delimiters)]
    ds.BodyPartExamined = scan.body_part
    for name in way.odd:
        for keyword, value in ODD[name].items():
            if value is None:
                if keyword in ds and (keyword != "RescaleType" or scan.unit == "HU"):
                    delattr(ds, keyword)
            elif not ((way.parts and keyword in IN_GROUPS) or (keyword == "RescaleType" and scan.unit != "HU")):
                setattr(ds, keyword, value)
    if "front" in way.private:
        ds.add_new(0x00090010, "LO", "ACME 1.1")
        ds.add_new(0x00091001, "SQ", Items([_item({"PatientName": "Other^Body", "RescaleSlope": 17})]))
        ds.add_new(0x00091002, "UN", b"\xff\xfe\xe0\x00")
    if "between" in way.private:
        ds.ReferencedImageSequence = Items(
            [_item({"ReferencedSOPClassUID": uid.CTImageStorage, "ReferencedSOPInstanceUID": "1.2.3"})]
        )
        ds.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
        ds.add_new(0x00291010, "OB", b"SV10\4\3\2\1" * 40)
        ds.VOILUTSequence = Items([_item({"LUTExplanation": "odd"}), Dataset()])
    if "behind" in way.private:
        ds.add_new(0x7FE10010, "LO", "ACME 1.1")
        ds.add_new(0x7FE11001, "OW", b"\1\2" * 8)
    if "trailing" in way.private:
        ds.add_new(0xFFFCFFFC, "OB", b"\0" * 126)


def _encoded(ds: Dataset, way: Telling) -> Received:
    syntax = uid.UID(way.syntax)
    if way.undefined:
        _without_lengths(ds)
    explicit = syntax.is_little_endian and not syntax.is_implicit_VR
    unknown = {pydicom.datadict.tag_for_keyword(keyword) for keyword in way.unknown if explicit}
    parts: dict[int, bytes] = {}
    for element in ds:
        parts.setdefault(element.tag.group, b"")
        parts[element.tag.group] += (
            _as_unknown(ds, element.tag) if element.tag in unknown else _element(ds, element.tag, syntax)
        )
    whole = b""
    for group, content in parts.items():
        if way.group_lengths and group not in (0x7FE0, 0xFFFC):
            order = "little" if syntax.is_little_endian else "big"
            size = b"\4\0\0\0" if syntax.is_implicit_VR else b"UL" + (4).to_bytes(2, order)
            whole += group.to_bytes(2, order) + b"\0\0" + size + len(content).to_bytes(4, order)
        whole += content
    return received(ds, syntax=way.syntax, data_set=whole)


def _without_lengths(ds: Dataset) -> None:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _without_lengths(item)


def _element(ds: Dataset, tag: int, syntax: uid.UID) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    alone = Dataset()
    alone[tag] = ds[tag]
    write_dataset(buffer, alone, ds.get("SpecificCharacterSet"))
    return bytes(buffer.getvalue())


def _as_unknown(ds: Dataset, tag: int) -> bytes:
    """The value as in implicit VR (PS3.5 6.2.2)."""
    implicit = _element(ds, tag, uid.ImplicitVRLittleEndian)
    head_, value = implicit[:4], implicit[8:]
    undefined = implicit[4:8] == b"\xff" * 4
    return head_ + b"UN\0\0" + (b"\xff" * 4 if undefined else len(value).to_bytes(4, "little")) + value


def _localizer(ds: Dataset) -> list[Dataset]:
    return [
        changed(
            ds,
            SOPInstanceUID=f"{SERIES}.9{i}",
            SeriesInstanceUID=f"{SERIES}.90",
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            SeriesNumber=1,
        )
        for i in range(2)
    ]


def _dose_report(ds: Dataset) -> list[Dataset]:
    report = Dataset()
    for keyword in (
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "SpecificCharacterSet",
    ):
        if keyword in ds:
            setattr(report, keyword, ds.get(keyword))
    report.SOPClassUID, report.SOPInstanceUID = uid.XRayRadiationDoseSRStorage, f"{SERIES}.95"
    report.SeriesInstanceUID, report.Modality, report.SeriesNumber = f"{SERIES}.96", "SR", 999
    return [report]


def _bone(ds: Dataset) -> list[Dataset]:
    return [
        changed(
            ds,
            SOPInstanceUID=f"{SERIES}.97.{i}",
            SeriesInstanceUID=f"{SERIES}.97",
            ConvolutionKernel="BONE",
            SeriesNumber=3,
        )
        for i in range(9)
    ]


def _screen(ds: Dataset) -> list[Dataset]:
    one = changed(
        ds,
        SOPClassUID=uid.SecondaryCaptureImageStorage,
        SOPInstanceUID=f"{SERIES}.98",
        SeriesInstanceUID=f"{SERIES}.99",
    )
    return [one]


_BESIDE = {
    "localizer": _localizer,
    "dose report": _dose_report,
    "bone": _bone,
    "screen": _screen,
}
