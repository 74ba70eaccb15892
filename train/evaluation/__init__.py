"""What a checkpoint is worth: predictions, calibration, figures with intervals, a report. docs/evaluation.md.

`predict` gives logits, `calibrate` temperatures and thresholds, `measure` the figures of metrics.json; the rest makes
pages and tables of them.
"""

from train.evaluation.figures import auc
from train.evaluation.measuring import calibrate, measure, plain
from train.evaluation.predicting import Logits, predict

__all__ = ["Logits", "auc", "calibrate", "measure", "plain", "predict"]
