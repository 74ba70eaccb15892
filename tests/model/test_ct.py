"""Reading CT objects: what scanners, archives and hostile senders make of them."""

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.sequence import Sequence

from dtvit.ct import CTObject, CTSlice, UnreadableSlice, order, read

AXIAL = [1, 0, 0, 0, 1, 0]


def made(
    stored: npt.NDArray[Any] | None = None, syntax: str = uid.ExplicitVRLittleEndian, **attributes: Any
) -> Dataset:
    """A CT Image of 64 x 96 with 40 HU everywhere, or of the `stored` values; attributes replace or (None) remove."""
    stored = np.full((64, 96), 1064, np.int16) if stored is None else stored
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = uid.CTImageStorage, "1.2.826.0.1.3680043.8.498.1"
    ds.InstanceNumber, ds.Modality = 7, "CT"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = stored.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(stored.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelSpacing, ds.SliceThickness = [1.5, 2.0], 5
    ds.ImageOrientationPatient, ds.ImagePositionPatient = AXIAL, [-100, -100, 30]
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def written(ds: Dataset) -> bytes:
    file = io.BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    ds.save_as(
        file,
        enforce_file_format=True,
        little_endian=syntax != uid.ExplicitVRBigEndian,
        implicit_vr=syntax == uid.ImplicitVRLittleEndian,
    )
    return file.getvalue()


def one(ds: Dataset) -> CTSlice:
    (only,) = read(written(ds))
    return only


def refused(ds: Dataset | bytes) -> str:
    with pytest.raises(UnreadableSlice) as caught:
        read(ds if isinstance(ds, bytes) else written(ds))
    return str(caught.value)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_uncompressed_syntax_gives_the_same_hounsfield_units(syntax: str) -> None:
    stored = np.arange(64 * 96, dtype=np.int16).reshape(64, 96) % 3000
    assert (one(made(stored, syntax)).hu == np.maximum(stored - 1024.0, -1024)).all()


@pytest.mark.parametrize(
    "syntax",
    [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless],
)
def test_lossless_compression_changes_nothing(syntax: str) -> None:
    stored = np.random.default_rng(0).integers(-900, 2000, (64, 96), dtype=np.int16)
    plain = made(stored)
    plain.compress(syntax, generate_instance_uid=False)
    assert (one(plain).hu == np.maximum(stored - 1024.0, -1024)).all()


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(("syntax", "process"), [(uid.JPEGLossless, "Process14"), (uid.JPEGLosslessSV1, "Process14_1")])
def test_lossless_jpeg_changes_nothing(syntax: str, process: str, bits: int, tmp_path: Path) -> None:
    """Encoded by GDCM, as pydicom does not write it."""
    import gdcm

    stored = np.random.default_rng(0).integers(-900, 2000, (64, 96), dtype=np.int16)
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(written(made(stored, BitsStored=bits, HighBit=bits - 1)))
    source, change, target = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    source.SetFileName(str(plain))
    assert source.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, f"JPEGLossless{process}")))
    change.SetInput(source.GetImage())
    assert change.Change()
    target.SetFileName(str(packed))
    target.SetFile(source.GetFile())
    target.SetImage(change.GetOutput())
    assert target.Write()
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == syntax
    (found,) = read(packed)
    assert (found.hu == np.maximum(stored - 1024.0, -1024)).all()


def test_values_and_geometry_come_out_in_their_units() -> None:
    read_slice = one(made())
    assert read_slice.hu.dtype == np.float32
    assert (read_slice.hu == 40).all()
    assert read_slice.hu.shape == (64, 96)
    assert read_slice.pixel_mm == (1.5, 2.0)
    assert read_slice.thickness_mm == 5.0
    assert read_slice.position_mm == 30.0
    assert read_slice.instance_number == 7
    assert read_slice.frame is None
    assert read_slice.axial


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_values_of_any_width_come_out_alike(kind: type[np.integer[Any]]) -> None:
    assert (one(made(np.full((64, 96), 64, kind), RescaleIntercept=-24)).hu == 40).all()


def test_a_path_bytes_and_an_open_file_read_alike(tmp_path: Path) -> None:
    data = written(made())
    path = tmp_path / "slice"
    path.write_bytes(data)
    with path.open("rb") as opened:
        assert [read(s)[0].hu[0, 0] for s in (path, data, opened)] == [40, 40, 40]


def test_the_position_grows_from_feet_to_head_whatever_the_orientation() -> None:
    assert one(made(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])).position_mm == 30.0
    assert one(made(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])).position_mm == 30.0
    tilted = [1, 0, 0, 0, 0.9483237, -0.3173047]
    low, high = (one(made(ImageOrientationPatient=tilted, ImagePositionPatient=[0, 0, z])).position_mm for z in (0, 10))
    assert low is not None
    assert high == pytest.approx(9.483, abs=0.001)


def test_positions_are_millimetres_however_the_cosines_are_rounded() -> None:
    """The table stands a metre and a half from the origin; the normal of these cosines is 0.4 % short of one."""
    rounded = [1, 0, 0, 0, 0.945, -0.316]
    low, high = (one(made(ImageOrientationPatient=rounded, ImagePositionPatient=[0, 0, z])) for z in (-1500, -1490))
    assert low.position_mm == pytest.approx(-1500 * 0.945 / math.hypot(0.945, 0.316))
    assert high.position_mm == pytest.approx(-1490 * 0.945 / math.hypot(0.945, 0.316))


def test_impossible_geometry_is_no_geometry() -> None:
    for broken in ([1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1]):
        assert one(made(ImageOrientationPatient=broken)).position_mm is None
    assert one(made(ImagePositionPatient=None)).position_mm is None
    assert one(made(ImagePositionPatient=[0, 30])).position_mm is None
    assert one(made(ImageOrientationPatient=None)).axial is None
    assert one(made(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])).axial is False


def test_padding_becomes_air_in_either_sign_of_its_value() -> None:
    """Here it would be -700 HU without; what is below air anyway tells nothing."""
    stored = np.full((64, 96), 1064, np.int16)
    stored[0] = -2000
    assert (one(made(stored, RescaleIntercept=1300)).hu[0] == -700).all()
    ds = made(stored, RescaleIntercept=1300)
    ds.add_new("PixelPaddingValue", "SS", -2000)
    assert (one(ds).hu[0] == -1024).all()
    stored[1], stored[2] = 500, -1990
    ds = made(stored, RescaleIntercept=1300)
    ds.add_new("PixelPaddingValue", "US", 63536)  # -2000 written with the other VR
    assert (one(ds).hu[[0, 1, 2], 0] == [-1024, 1800, -690]).all()
    ds.add_new("PixelPaddingRangeLimit", "US", 63546)
    assert (one(ds).hu[[0, 1, 2], 0] == [-1024, 1800, -1024]).all()


def test_a_padding_value_that_would_blank_tissue_is_not_believed() -> None:
    ds = made()
    ds.add_new("PixelPaddingValue", "SS", 1064)
    assert (one(ds).hu == 40).all()
    stored = np.full((64, 96), 1064, np.int16)
    stored[0] = 500
    ds = made(stored)
    ds.add_new("PixelPaddingValue", "SS", 500)
    assert (one(ds).hu[0] == -1024).all()
    ds.add_new("PixelPaddingRangeLimit", "SS", 1064)
    assert (one(ds).hu[:2, 0] == [-524, 40]).all()


def test_a_sign_bit_that_was_not_extended_is() -> None:
    stored = np.full((64, 96), 40, np.int16)
    stored[0] = 0x1000 - 100  # -100 in 12 bits
    assert (one(made(stored, BitsStored=12, HighBit=11, RescaleIntercept=0)).hu[0] == -100).all()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_values_that_lie_in_the_upper_bits_are_brought_down(kind: type[np.integer[Any]], syntax: str) -> None:
    """Bits Stored 12 and High Bit 15: four unused bits below each value (PS3.5 8.1.1)."""
    stored = np.array([[0, 1064, 2047]] * 64, kind).repeat(32, axis=1)
    if kind is np.int16:
        stored[0] = -700
    packed = syntax == uid.RLELossless
    ds = made((stored << 4).astype(kind), uid.ExplicitVRLittleEndian if packed else syntax, BitsStored=12, HighBit=15)
    if packed:
        ds.compress(syntax, generate_instance_uid=False)
    found = one(ds)
    assert (found.hu == np.maximum(stored - 1024.0, -1024)).all()


def test_a_slope_is_applied_to_values_and_to_their_padding() -> None:
    stored = np.full((64, 96), 2128, np.int16)
    stored[0] = 1800  # -124 HU: such padding would blank fat
    ds = made(stored, RescaleSlope=0.5)
    ds.add_new("PixelPaddingValue", "SS", 1800)
    assert (one(ds).hu[0] == -124).all()
    assert (one(ds).hu[1:] == 40).all()
    upside_down = made(-stored, RescaleSlope=-0.5)
    upside_down.add_new("PixelPaddingValue", "SS", -1800)
    assert (one(upside_down).hu == one(ds).hu).all()


def test_the_tilt_is_that_of_the_header_or_else_of_the_plane() -> None:
    tilted = [1, 0, 0, 0, 0.9483237, -0.3173047]
    assert one(made(ImageOrientationPatient=tilted)).tilt_deg == pytest.approx(18.5, abs=0.001)
    assert one(made(ImageOrientationPatient=tilted, GantryDetectorTilt=-20)).tilt_deg == -20.0
    assert one(made(ImageOrientationPatient=None)).tilt_deg is None


def test_a_thickness_that_cannot_be_is_none() -> None:
    assert [one(made(SliceThickness=mm)).thickness_mm for mm in (0, -5, 101, None)] == [None] * 4


def test_metal_beyond_the_announced_bits_stays_bright() -> None:
    stored = np.full((64, 96), 1064, np.uint16)
    stored[0] = 6000
    assert (one(made(stored, BitsStored=12, HighBit=11)).hu[0] == 4976).all()


def test_an_overlay_in_the_unused_bits_is_cut_away() -> None:
    stored = np.full((64, 96), 1064, np.uint16)
    stored[0] |= 0x8000
    ds = made(stored, BitsStored=12, HighBit=11)
    ds.add_new((0x6000, 0x0102), "US", 15)
    assert (one(ds).hu == 40).all()


def test_what_is_no_ct_image_is_named() -> None:
    assert "Secondary Capture" in refused(made(SOPClassUID=uid.SecondaryCaptureImageStorage))
    assert "not a DICOM object" in refused(b"hello" * 100)
    assert refused(b"")
    assert "no pixels" in refused(made(PixelData=None))


def test_missing_or_foreign_units_are_refused() -> None:
    assert "Rescale" in refused(made(RescaleSlope=None))
    assert "Rescale" in refused(made(RescaleSlope=0))
    assert "not finite numbers" in refused(made(RescaleSlope="1E+39"))
    assert "Hounsfield" in refused(made(RescaleType="Z_EFF"))
    assert "Hounsfield" in refused(made(RescaleType="HU_MOD"))  # of which a material was taken out
    assert "Pixel Spacing" in refused(made(PixelSpacing=None))
    assert "Pixel Spacing" in refused(made(PixelSpacing=[0, 0]))
    assert "Pixel Spacing" in refused(made(PixelSpacing=[40, 40]))
    assert "Pixel Spacing" in refused(made(PixelSpacing=[6, 6]))
    assert "Pixel Spacing" in refused(made(PixelSpacing=[1.5, 2, 5]))
    assert "Pixel Spacing" in refused(made(PixelSpacing=[4, 0.5])), "5 cm across"


def test_sizes_that_cannot_be_are_refused_before_anything_is_allocated() -> None:
    assert "Rows" in refused(made(Rows=60000))
    assert "Columns" in refused(made(Columns=1))
    assert "cut short" in refused(made(Rows=2000, Columns=2000))
    assert "Frames" in refused(made(NumberOfFrames=2_000_000_000))
    assert "bits" in refused(made(BitsStored=40))
    assert "bits" in refused(made(BitsAllocated=12, BitsStored=12))
    for coloured in ({"SamplesPerPixel": 3}, {"PhotometricInterpretation": "PALETTE COLOR"}):
        assert "in colour" in refused(made(**coloured))


def jpeg_2000_of(rows: int, columns: int, tile: int) -> bytes:
    """The main header of a codestream of this size, and nothing behind it."""
    siz = struct.pack(">HHIIIIIIIIH", 41, 0, columns, rows, 0, 0, tile, tile, 0, 0, 1) + bytes((15, 1, 1))
    return b"\xff\x4f\xff\x51" + siz + b"\xff\xd9"


def box(kind: bytes, content: bytes) -> bytes:
    """Of a JP2 file."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2_of(*boxes: bytes) -> bytes:
    return b"".join((box(b"jP  ", b"\r\n\x87\n"), box(b"ftyp", b"jp2 \0\0\0\0jp2 "), *boxes))


@pytest.mark.parametrize(
    ("syntax", "stream", "reason"),
    [
        (uid.JPEG2000Lossless, jpeg_2000_of(60000, 60000, 60000), "60000 x 60000"),
        (uid.JPEG2000Lossless, jpeg_2000_of(64, 96, 1), "not a single grey image"),
        (
            uid.JPEG2000Lossless,
            jp2_of(box(b"uuid", jpeg_2000_of(64, 96, 96)), box(b"jp2c", jpeg_2000_of(60000, 60000, 60000))),
            "60000 x 60000",
        ),
        (uid.JPEG2000Lossless, jp2_of(struct.pack(">I4sQ", 1, b"uuid", 0) + bytes(64)), "no JPEG 2000"),
        (uid.JPEG2000Lossless, jp2_of(struct.pack(">I4sQ", 1, b"uuid", 2**64 - 1) + bytes(64)), "no JPEG 2000"),
        (
            uid.JPEG2000Lossless,
            jp2_of(box(b"free", b"") * 1000, box(b"jp2c", jpeg_2000_of(64, 96, 96))),
            "no JPEG 2000",
        ),
        (uid.JPEGLSLossless, b"\xff\xd8\xff\xf7\x00\x0b\x10\xea\x60\xea\x60\x01\x01\x11\x00\xff\xd9", "60000 x 60000"),
        (uid.JPEGLosslessSV1, b"\xff\xd8\xff\xc3\x00\x0b\x10\xea\x60\xea\x60\x01\x01\x11\x00\xff\xd9", "60000 x 60000"),
        (
            uid.JPEGExtended12Bit,
            b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x40\x00\x60\x01\x01\x11\x00\xff\xd9",
            "of 12 bits cannot be decoded: there is no decoder",
        ),
        (uid.JPEG2000Lossless, b"no stream at all", "no JPEG 2000"),
        (uid.JPEG2000Lossless, jpeg_2000_of(64, 96, 96), "cannot be decoded"),
        (uid.RLELossless, b"\x00" * 64, "cannot be decoded"),
    ],
)
def test_a_lying_stream_costs_its_slice_and_no_memory(syntax: str, stream: bytes, reason: str) -> None:
    ds = made(syntax=syntax)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    assert reason in refused(ds)


def test_a_frame_in_a_jp2_wrapping_is_read() -> None:
    pixels = made()
    plain = io.BytesIO()
    Image.fromarray(np.frombuffer(pixels.PixelData, "<u2").reshape(64, 96)).save(plain, "JPEG2000")
    assert plain.getvalue()[4:8] == b"jP  "
    ds = made(syntax=uid.JPEG2000Lossless, BitsStored=16, HighBit=15, PixelRepresentation=0)
    ds.PixelData = encapsulate([plain.getvalue()])
    ds["PixelData"].is_undefined_length = True
    assert CTObject(written(ds)).slice(0).hu.shape == (64, 96)


@pytest.mark.parametrize("said", [None, ""])
def test_what_need_not_be_known_costs_no_slice(said: str | None) -> None:
    assert (one(made(PhotometricInterpretation=said)).hu == 40.0).all()


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_a_wrong_offset_table_costs_no_frame_and_exchanges_none(syntax: str) -> None:
    stored = np.random.default_rng(0).integers(-900, 2000, (3, 64, 96), dtype=np.int16)
    streams = []
    for frame in stored:
        ds = made(frame)
        ds.compress(syntax, generate_instance_uid=False)
        streams.append(get_frame(ds.PixelData, 0, number_of_frames=1))
    ds = enhanced()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData, offsets, lengths = encapsulate_extended(streams)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets[8:] + offsets[:8], lengths
    for frame, found in zip(stored, read(written(ds)), strict=True):
        assert (found.hu == np.maximum(frame - 1024.0, -1024)).all()


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtvit.reading.parsing.MAX_INFLATED", 1 << 20)
    packed = zlib.compressobj(wbits=-15)
    bomb = packed.compress(b"\0" * (8 << 20)) + packed.flush()
    head = written(made(syntax=uid.DeflatedExplicitVRLittleEndian))
    start = 144 + struct.unpack_from("<I", head, 140)[0]
    assert "deflated object grows beyond 1 MiB" in refused(head[:start] + bomb)


def test_a_reason_names_no_patient() -> None:
    ds = made(RescaleSlope=None)
    ds.PatientName, ds.PatientID = "Someone^Known", "4711-0815"
    reason = refused(ds)
    assert "Someone" not in reason
    assert "4711" not in reason


def test_any_cut_of_a_file_is_read_or_refused_in_words() -> None:
    data = written(made())
    outcomes = set()
    for length in range(0, len(data), 97):
        try:
            outcomes.add(len(read(data[:length])))
        except UnreadableSlice:
            outcomes.add(0)
    assert 0 in outcomes


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_whatever_bytes_are_changed_a_slice_is_read_or_refused_in_words(syntax: str) -> None:
    ds = made(np.random.default_rng(0).integers(-900, 2000, (64, 96), dtype=np.int16))
    ds.PatientName = "Someone^Known"
    if syntax != uid.ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    data = written(ds)
    random = np.random.default_rng(5)
    reasons = []
    for _ in range(150):
        broken = np.frombuffer(data, np.uint8).copy()
        where = random.integers(140, min(len(data), 1200), random.integers(1, 12))
        broken[where] = random.integers(0, 256, where.size)
        try:
            read(broken.tobytes())
        except UnreadableSlice as exc:
            reasons.append(str(exc))
    assert len(reasons) > 10
    assert not [reason for reason in reasons if "Someone" in reason]


def enhanced(frames: int = 3) -> Dataset:
    """An Enhanced CT of `frames` planes 5 mm apart, each with the frame number in HU."""
    stored = np.stack([np.full((64, 96), 1024 + i, np.int16) for i in range(1, frames + 1)])
    ds = made(stored, NumberOfFrames=frames, SOPClassUID=uid.EnhancedCTImageStorage)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1.5, 2.0], 5
    plane.ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for i in range(frames):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-100, -100, 5 * i]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([position]), Sequence([values])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return ds


def test_an_enhanced_image_gives_one_slice_a_frame() -> None:
    slices = read(written(enhanced()))
    assert [s.frame for s in slices] == [1, 2, 3]
    assert [s.position_mm for s in slices] == [0.0, 5.0, 10.0]
    assert [float(s.hu[0, 0]) for s in slices] == [1.0, 2.0, 3.0]
    assert slices[0].pixel_mm == (1.5, 2.0)


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("FrameType", ["DERIVED", "PRIMARY", "LOCALIZER", "NONE"], "LOCALIZER"),
        ("FrameType", ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], "MAXIMUM"),
        ("VolumeBasedCalculationTechnique", "MIN_IP", "MIN_IP"),
        ("VolumetricProperties", "SAMPLED", "SAMPLED"),
    ],
)
def test_a_projection_among_the_frames_is_left_out(keyword: str, value: str | list[str], said: str) -> None:
    ds = enhanced()
    for group, values in zip(ds.PerFrameFunctionalGroupsSequence, (None, value, None), strict=True):
        kind = Dataset()
        kind.FrameType, kind.VolumetricProperties = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "VOLUME"
        kind.VolumeBasedCalculationTechnique = "NONE"
        if values is not None:
            setattr(kind, keyword, values)
        group.CTImageFrameTypeSequence = Sequence([kind])
    image = CTObject(written(ds))
    assert (image.slice(0).frame, image.slice(2).frame) == (1, 3)
    with pytest.raises(UnreadableSlice, match=said):
        image.slice(1)


def test_a_broken_frame_costs_itself_and_is_named() -> None:
    ds = enhanced()
    del ds.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
    image = CTObject(written(ds))
    assert len(image) == 3
    assert image.slice(0).frame == 1
    assert image.slice(2).frame == 3
    with pytest.raises(UnreadableSlice, match="Rescale") as caught:
        image.slice(1)
    assert caught.value.frame == 2


def encoded_as(syntax: str, ds: Dataset) -> Dataset:
    """A data set of `made` in another uncompressed syntax."""
    ds.PixelData = ds.pixel_array.astype(">i2" if syntax == uid.ExplicitVRBigEndian else "<i2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


@pytest.mark.parametrize("said", [1, 2, None])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_no_frame_is_passed_over_for_a_false_number(said: int | None, syntax: str) -> None:
    ds = encoded_as(syntax, enhanced())
    ds.NumberOfFrames = said
    assert [float(s.hu[0, 0]) for s in read(written(ds))] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_frames_whose_pixels_did_not_come_cost_no_others(syntax: str) -> None:
    ds = encoded_as(syntax, enhanced())
    ds.PixelData = ds.PixelData[:-2]
    image = CTObject(written(ds))
    assert [float(image.slice(i).hu[0, 0]) for i in (0, 1)] == [1.0, 2.0]
    with pytest.raises(UnreadableSlice, match="cut short") as caught:
        image.slice(2)
    assert caught.value.frame == 3


def test_slices_are_ordered_by_position_and_none_is_dropped() -> None:
    slices = [one(made(ImagePositionPatient=[0, 0, z], InstanceNumber=n)) for z, n in ((10, 1), (0, 2), (5, 4), (5, 3))]
    placeless = one(made(ImagePositionPatient=None, InstanceNumber=9))
    assert [s.instance_number for s in order([placeless, *slices])] == [2, 3, 4, 1, 9]


def test_six_encodings_of_one_slice_agree(shared_data: Path) -> None:
    folder = shared_data / "head-ct" / "nema_CT2_transfer_syntaxes"
    hu = {path.stem: read(path)[0].hu for path in folder.glob("*.dcm")}
    assert len(hu) == 6
    for name in ("CT2_RLE", "CT2_JLSL", "CT2_JPLL"):
        assert (hu[name] == hu["CT2_J2KR"]).all(), name
    assert np.abs(hu["CT2_JLSN"] - hu["CT2_J2KR"]).max() <= 4  # near-lossless
    assert np.corrcoef(hu["CT2_J2KI"].ravel(), hu["CT2_J2KR"].ravel())[0, 1] > 0.97  # strongly lossy


def test_a_jpeg_2000_stream_of_another_sign_than_announced_is_read(shared_data: Path) -> None:
    """Pixel Representation says signed, the stream says unsigned; brain must come out at brain's density."""
    (path,) = (shared_data / "head-ct" / "odd_single").glob("*.dcm")
    (odd,) = read(path)
    assert odd.hu[0, 0] == -1024
    assert 20 < float(np.median(odd.hu[340:360, 200:300])) < 50
    assert odd.tilt_deg == -22.0


def test_the_gantry_tilt_is_in_the_positions_of_the_human_head(shared_data: Path) -> None:
    folder = shared_data / "head-ct" / "ge_hispeed_human_28"
    positions = [s.position_mm or 0.0 for s in order([read(p)[0] for p in folder.glob("*.dcm")])]
    steps = np.diff(positions)
    assert np.allclose(steps[:13], 4.0, atol=0.01)
    assert steps[13] == pytest.approx(1.08, abs=0.01)
    assert np.allclose(steps[14:], 7.0, atol=0.01)


def test_the_localizer_is_not_axial(shared_data: Path) -> None:
    (localizer,) = read(shared_data / "head-ct" / "philips_extra" / "localizer.dcm")
    assert localizer.axial is False


def test_pydicom_stays_silent_about_values(recwarn: pytest.WarningsRecorder) -> None:
    ds = made()
    ds.add_new("PatientBirthDate", "DA", "19000101")
    data = written(ds).replace(b"19000101", b"1900/1/1")
    assert read(data)
    assert not [w for w in recwarn if "1900" in str(w.message)]
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN
