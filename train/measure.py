"""Moved to `train.evaluation`; these are its names for those who still ask here."""

from train.evaluation import Calibration, Logits, auc, calibrate, fit_temperature, fit_thresholds, measure

__all__ = ["Calibration", "Logits", "auc", "calibrate", "fit_temperature", "fit_thresholds", "measure"]
