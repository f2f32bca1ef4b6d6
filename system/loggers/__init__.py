"""Where curves and figures of a run go: TensorBoard, MLflow, Weights & Biases."""
