"""Calibration: recording runs, kernels, learned rows and schedules, rollout."""
