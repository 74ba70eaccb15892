"""One training run from the beginning: pictures, training, checkpoint. What both command lines call."""

from __future__ import annotations

from pathlib import Path

from train import data, synthetic
from train.loop import Say, Source, fit, say_to_stderr
from train.options import Options


def run(options: Options, say: Say = say_to_stderr) -> Path:
    """The path of the checkpoint. May be stopped at any moment and run again: it goes on from there.

    Raises UnusableData, UnusableRun, UnusableCheckpoint (`start_from`), UnavailableDevice, UnknownEncoder.
    """
    folder = options.data_folder
    synthetic.make(
        folder,
        options.heads,
        options.seed,
        options.preprocessing,
        say,
        processes=options.processes,
        minutes=options.data_minutes,
    )
    pictures, source = data.load(folder)
    heads = len(set(pictures.patient.tolist()))
    told = Source(
        training_data=f"{heads:,} synthetic heads (dtvit.phantom {source['phantom']}), each with an intracerebral "
        f"hemorrhage and without it; {len(pictures):,} slices. No picture of a person.",
        patients_seen="none",
        preprocessing=tuple(source["preprocessing"]),
    )
    return fit(options, pictures, told, say)
