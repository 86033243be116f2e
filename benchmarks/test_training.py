"""Short epochs of the global model, the start of its process included: the step alone is in `fglfast bench`."""

from fglfast.lab.bench.training_step import training_rate


def test_training(benchmark):
    rate = benchmark.pedantic(training_rate, args=("resnet18", 32, 128, 3, 1.0), rounds=1)
    benchmark.extra_info["images_per_second"] = rate.images_per_second
