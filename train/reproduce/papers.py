"""What the papers say: numbers with their source, and what is known to be wrong with them."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from train.errors import UnusableData
from train.reproduce.planned import V1, V2

SHIPPED = Path(__file__).with_name("papers.toml")
FIGURES = ("accuracy", "precision", "recall", "specificity", "f1", "location_accuracy", "both")
DTVIT, WITHOUT = "dtvit", "dtvit without augmentation"

TO_KNOW = {
    "Splits": "The papers replicate slices first and then deal out slices, 8:1:1: the same patients train and test, "
    "and in the replicated classes the very same slices do. Numbers from such a split are marked 'slices mixed'; they "
    "say how well a model recognises what it has seen. 'Patients apart' is what a new patient can expect.",
    "Counts": "The papers have 12,651 slices, and 30,222 after replication. Copies of this data set in circulation "
    "have fewer, so counts here need not agree with theirs.",
    "Tables": "Headings name the papers' tables that ours repeat, as far as they are known; the papers' own numbers "
    "stand beside ours where they are at hand, with their source. --papers FILE takes the numbers that you have.",
    "Recall": "The first version divides true positives by TP + TN. Here recall is TP / (TP + FN); recall by their "
    "formula stands beside it.",
    "Specificity": "The later version has its ratio upside down. Here specificity is TN / (TN + FP).",
    "Headline": "The 0.9988 of the later version is the mean of the accuracies of the two heads: here 'both heads', of "
    "which the second is over slices with hemorrhage alone. Theirs counts normals as located, too: not like for like.",
    "Location": "The released code has a fourth class, 'none', for slices without hemorrhage, which an accuracy over "
    "all slices counts as located. Here location is scored on slices with hemorrhage, over three classes.",
    "Best": "What the released code keeps as the best epoch is the last one. Here the best by validation loss is kept.",
    "Labels": "Every slice of a patient with hemorrhage that is in the data counts as showing it. Patients with and "
    "without hemorrhage come from different years; a model can tell these apart by scanner and field of view: see the "
    "yardsticks.",
}


@dataclass(frozen=True)
class Papers:
    numbers: dict[tuple[str, str, str], float]
    """By chapter, line and figure."""
    counts: dict[str, tuple[int, int]]
    """By what is counted: before and after replication."""
    sources: tuple[str, ...] = field(default=())

    def number(self, chapter: str, line: str, figure: str) -> float:
        """NaN if it is not at hand."""
        return self.numbers.get((chapter, line, figure), math.nan)


def read(path: Path | None = None) -> Papers:
    """Raises UnusableData."""
    path = path or SHIPPED
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        numbers = {}
        for each in content.get("number", []):
            key = str(each["chapter"]), str(each["line"]), str(each["figure"])
            if key[0] not in (V1, V2) or key[2] not in FIGURES:
                raise ValueError(
                    f"chapter must be v1 or v2 and figure one of {', '.join(FIGURES)}, not {key[0]} and {key[2]}"
                )
            numbers[key] = float(each["value"])
        counts = {str(each["what"]): (int(each["before"]), int(each["after"])) for each in content.get("count", [])}
        everything = [*content.get("number", []), *content.get("count", []), *content.get("size", [])]
        return Papers(numbers, counts, tuple(dict.fromkeys(str(each["source"]) for each in everything)))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as exc:
        raise UnusableData(f"{path} holds no numbers of the papers ({exc}); see {SHIPPED.name} for the format") from exc
