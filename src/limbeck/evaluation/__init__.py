"""Evaluation: quality, calibration, agreement with the teacher, cost. Pure functions first; `run` runs models."""
