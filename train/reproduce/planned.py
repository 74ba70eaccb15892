"""Which rows the tables have: a model or a yardstick, on one kind of split, with one seed.

The papers' tables compare DTViT with and without "augmentation" (which replicates slices), and other encoders with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

V1, V2, YARDSTICKS = "v1", "v2", "yardsticks"
CHAPTERS = (YARDSTICKS, V1, V2)
"""In the order in which they are made, the cheap ones first."""
CONVOLUTIONAL = ("resnet18", "resnet34", "vgg16_bn", "densenet161", "alexnet", "squeezenet1_0")
DTVIT = {V1: "vit_base_patch16_224", V2: "vit_large_patch16_224"}
OTHERS = {V1: CONVOLUTIONAL, V2: (*CONVOLUTIONAL, "vit_base_patch16_224", "vit_huge_patch14_224")}
SMALL_DTVIT = {V1: "test_vit2", V2: "test_vit3"}
SMALL_OTHERS = dict.fromkeys((V1, V2), ("mobilenetv3_small_050",))
"""For `--quick`: less than a million parameters each. From scratch both papers have one schedule, and AdamW does not
heed a factor of the loss: with the same ViT their rows would be the same run twice."""
NAMES = {
    "alexnet": "AlexNet",
    "densenet161": "DenseNet161",
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "squeezenet1_0": "SqueezeNet 1.0",
    "vgg16_bn": "VGG16 (bn)",
    "vit_base_patch16_224": "ViT-B/16",
    "vit_huge_patch14_224": "ViT-H/14",
    "vit_large_patch16_224": "ViT-L/16",
    "mobilenetv3_small_050": "MobileNetV3 (small, 0.5)",
    "test_vit2": "ViT/16 of 0.4 million",
    "test_vit3": "ViT/16 of 0.8 million",
    "nearest": "one nearest neighbour, 32 x 32",
    "silhouette": "boosting on silhouette",
    "shape": "boosting on shape",
    "noise": "boosting on noise",
    "all": "boosting on silhouette, shape and noise",
}

SplitName = Literal["apart", "paper", "slices"]


@dataclass(frozen=True)
class Row:
    chapter: str
    """One of CHAPTERS."""
    subject: str
    """An encoder; of a yardstick `nearest`, `all`, or one group of features."""
    replicate: bool
    """With the papers' augmentation, replication; a yardstick is never augmented."""
    split: SplitName
    """Patients apart, the papers' own, or slices mixed without replication."""
    seed: int

    @property
    def line(self) -> tuple[str, str, bool]:
        """Rows that differ only in split and seed stand together."""
        return self.chapter, self.subject, self.replicate

    @property
    def name(self) -> str:
        """Name of its file."""
        augmented = "replicated" if self.replicate else "plain"
        return f"{self.chapter}-{self.subject}-{augmented}-{self.split}-{self.seed}"

    def told(self, dtvit: str) -> str:
        """The beginning of its line in a table; `dtvit`: the encoder that goes by this name."""
        name = NAMES.get(self.subject, self.subject)
        if self.chapter == YARDSTICKS:
            return name
        if self.subject != dtvit:
            return name
        return f"DTViT ({name}), {'with' if self.replicate else 'without'} augmentation"


def plan(chapters: Iterable[str], seeds: int, *, quick: bool) -> list[Row]:
    """All rows, each seed's together, so that a stop leaves whole tables."""
    wanted = set(chapters)
    return [
        row
        for chapter in CHAPTERS
        if chapter in wanted
        for seed in range(seeds)
        for row in (_yardsticks(seed) if chapter == YARDSTICKS else _models(chapter, seed, quick))
    ]


def dtvit(chapter: str, *, quick: bool) -> str:
    return (SMALL_DTVIT if quick else DTVIT)[chapter]


def _models(chapter: str, seed: int, quick: bool) -> list[Row]:
    others: Sequence[str] = (SMALL_OTHERS if quick else OTHERS)[chapter]
    lines = [(dtvit(chapter, quick=quick), False), (dtvit(chapter, quick=quick), True)]
    lines += [(encoder, True) for encoder in others]
    return [
        Row(chapter, encoder, replicate, split, seed)
        for encoder, replicate in lines
        for split in (_mixed(replicate), "apart")
    ]


def _mixed(replicate: bool) -> SplitName:
    return "paper" if replicate else "slices"


def _yardsticks(seed: int) -> list[Row]:
    splits: tuple[SplitName, ...] = ("slices", "paper", "apart")
    return [
        Row(YARDSTICKS, subject, False, split, seed)
        for subject in ("nearest", "silhouette", "shape", "noise", "all")
        for split in splits
    ]
