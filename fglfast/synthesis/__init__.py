"""Engine and payloads to a labelled synthetic data set."""
