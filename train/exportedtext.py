"""The words that go with an exported checkpoint: in the file's own metadata, and in the README beside it."""

from __future__ import annotations

from typing import Any, Literal

from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS
from dtvit.model import INPUT_PIXELS

Format = Literal["onnx", "torch-export"]

_EXAMPLES = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{name}")
presence, location = session.run(None, {{"pictures": pictures}})  # uint8 (slices, 224, 224)
session.get_modelmeta().custom_metadata_map["slice_present_at"]""",
    "torch-export": """import torch

told = {{"dtvit.json": ""}}
program = torch.export.load("{name}", extra_files=told)  # told["dtvit.json"] has the thresholds
presence, location = program.module()(pictures)  # uint8 (slices, 224, 224)""",
}


def told(checkpoint: Checkpoint) -> dict[str, Any]:
    """What whoever runs the file must know, kept in the file."""
    metadata = checkpoint.metadata
    slices, series = metadata.slice_thresholds, metadata.series_thresholds
    return {
        "notice": metadata.notice,
        "licence": metadata.licence,
        "name": metadata.name,
        "checkpoint_sha256": checkpoint.digest,
        "encoder": metadata.encoder,
        "preprocessing": list(metadata.preprocessing),
        "input": f"uint8 (slices, {INPUT_PIXELS}, {INPUT_PIXELS}): 0 for 0 HU or less and outside of the head, "
        "255 for 80 HU or more",
        "outputs": "presence (slices,): probability of hemorrhage; location (slices, 3): probabilities of "
        f"{', '.join(LOCATIONS)}, given hemorrhage",
        "slice_absent_below": slices.absent_below,
        "slice_present_at": slices.present_at,
        "series_absent_below": series.absent_below,
        "series_present_at": series.present_at,
    }


def readme(checkpoint: Checkpoint, kind: Format, name: str, difference: float, slices: int) -> str:
    metadata = checkpoint.metadata
    rows = "\n".join(f"| {key} | {as_text(value)} |" for key, value in told(checkpoint).items())
    return f"""# {name}

**{metadata.notice}.** Licence: {metadata.licence}.

{metadata.name} ({metadata.encoder}) as {kind}. Its probabilities on {slices} slices of phantoms differ by
{difference:.2g} at most from those of the checkpoint it comes from.

```python
{_EXAMPLES[kind].format(name=name)}
```

In the file: scaling to the encoder's mean and standard deviation, the encoder, both heads, temperatures, softmax.
Not in it: conversion to HU, removal of the head holder and the geometry (`dtvit.preprocess` makes such pictures), the
thresholds, and the rule that leads from slices to a series (`dtvit.findings.conclude`).

| in the file's metadata | |
| --- | --- |
{rows}
"""


def as_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
