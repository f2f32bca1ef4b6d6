"""Loggers of a run's curves and metrics: TensorBoard, MLflow, Weights & Biases."""
