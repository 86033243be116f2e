"""Synthetic data set to global model: DeepSpeed training and its evaluation."""
