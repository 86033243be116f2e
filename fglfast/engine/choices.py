"""What a user may ask an engine to be: the names of backends and precisions. Imports nothing, so `--help` can."""

from typing import Literal

BackendName = Literal["auto", "torch", "torch-compile", "torch-autotune", "onnxruntime", "openvino", "tensorrt"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"]
