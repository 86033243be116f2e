"""What computes here: backends, attention kernels, training. Each probe tries it for real, on something small.

Returns a detail, or raises why there is none. Knows nothing of how it is shown.
"""

import os
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fglfast.base.errors import FglError, MissingExtraError
from fglfast.lab.doctor.installed import NEEDS_GPU, Probes, compiler, distribution_version, has_gpu, ninja

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = {
    "SDPA math": "MATH",
    "SDPA flash": "FLASH_ATTENTION",
    "SDPA memory-efficient": "EFFICIENT_ATTENTION",
    "SDPA cuDNN": "CUDNN_ATTENTION",
}


def backends() -> Probes:
    """Each backend of the engine, and what the PyTorch one does through torchao."""
    from fglfast.engine.backends import NAMES

    eight_bits = {f"torch {precision}": partial(_eight_bits, precision) for precision in ("int8", "float8")}
    compiled = {name: partial(_compiled, name) for name in ("torch-compile", "torch-autotune")}
    return {**{name: partial(_backend, name) for name in NAMES}, **compiled, **eight_bits}


def attention() -> Probes:
    """Each attention kernel, on the GPU when there is one."""
    return {**{name: partial(_sdpa, kernel) for name, kernel in KERNELS.items()}, "xformers": _xformers}


def training() -> Probes:
    """DeepSpeed, how its processes talk, and what it compiles with."""
    return {
        "deepspeed": _deepspeed,
        "gloo": partial(_reduce, "gloo", "cpu"),
        "nccl": partial(_reduce, "nccl", "cuda"),
        "C++ compiler": compiler,
        "ninja": ninja,
    }


def _backend(name: str, precision: str = "float32") -> str:
    """Through the engine's own interface: stand-ins where it takes exports, the bundled model where it does not."""
    import torch

    from fglfast.engine.backends import find_backend, versions
    from fglfast.engine.exported import UNET, example_inputs
    from fglfast.engine.fusions import FILE, Exported
    from fglfast.engine.recipe import Recipe
    from fglfast.generator.load import read_shapes
    from fglfast.generator.parts import bundled

    backend, model = find_backend(name), bundled("mini")
    recipe = Recipe(image_size=32, unet_batch=2, vae_batch=2)
    build = recipe.build(name, precision)
    shapes = read_shapes(model, build.image_size)
    examples = example_inputs(shapes, build.unet_batch)
    with tempfile.TemporaryDirectory(prefix="fglfast-doctor-") as temporary:
        exported, engine = Path(temporary, "exported"), Path(temporary, "engine")
        exported.mkdir()
        engine.mkdir()
        for file, inputs in examples.items() if backend.needs_export else ():
            _write_stand_in(inputs, exported / file, backend.route(precision).openvino)
        Exported(modules={}, float16=()).save(exported / FILE)
        backend.compile(build, shapes, exported, engine)
        output = backend.load(build, shapes, model, engine).denoise(*examples[UNET].values())
    if len(output) != build.unet_batch or not torch.isfinite(output).all():
        raise FglError("it ran a small network, and what came out is wrong")
    found, packages = versions(backend, precision), [*backend.packages, backend.needs.get(precision)]
    return ", ".join(f"{package} {found[package]}" for package in packages if package) + ", ran a small network"


def _compiled(name: str) -> str:
    """Two layers through torch.compile, as the backend calls it: a whole generator would take minutes on a GPU."""
    import torch
    from torch import nn

    from fglfast.engine.backends import find_backend
    from fglfast.engine.backends.eager import TorchBackend

    backend = find_backend(name)
    assert isinstance(backend, TorchBackend)
    device = "cuda" if has_gpu() else "cpu"
    layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU()).eval().requires_grad_(False)
    layers.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images_BCHW = torch.linspace(-1, 1, 2 * 4 * 16 * 16).reshape(2, 4, 16, 16)
    found_BCHW = backend.function(layers, device, torch.float32)(images_BCHW)
    torch.testing.assert_close(found_BCHW, layers(images_BCHW.to(device)).cpu())
    return f"torch {torch.__version__}, compiled two layers for {device}"


def _eight_bits(precision: str) -> str:
    from fglfast.engine.backends import chosen, find_backend

    if reason := find_backend("torch").refusal(precision):
        raise MissingExtraError(reason)
    chosen("torch", precision)
    return _backend("torch", precision)


def _write_stand_in(inputs: Mapping[str, "Tensor"], path: Path, for_openvino: bool) -> None:
    """A network with these inputs, in ONNX or OpenVINO's format: their numbers, a row each, times a vector of ones."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    from fglfast.engine.exported import OPSET

    given, nodes = [], []
    for name, tensor in inputs.items():
        array = tensor.numpy()
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        given.append(helper.make_tensor_value_info(name, kind, ["batch", *array.shape[1:]]))
        nodes.append(helper.make_node("Cast", [name], [f"{name} cast"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Flatten", [f"{name} cast"], [f"{name} flat"]))
    width = sum(tensor[0].numel() for tensor in inputs.values())
    nodes.append(helper.make_node("Concat", [f"{name} flat" for name in inputs], ["rows"], axis=1))
    nodes.append(helper.make_node("MatMul", ["rows", "ones"], ["output"]))
    ones = numpy_helper.from_array(np.ones((width, 1), dtype=np.float32), "ones")
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "stand-in", given, [output], [ones])
    save(helper.make_model_gen_version(graph, opset_imports=[helper.make_opsetid("", OPSET)]), path)
    if for_openvino:
        import openvino

        openvino.save_model(openvino.Core().read_model(path), path.with_suffix(".xml"))


def _sdpa(kernel: str) -> str:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    device, dtype = ("cuda", torch.float16) if has_gpu() else ("cpu", torch.float32)
    query_BHLD = torch.ones(1, 2, 64, 64, device=device, dtype=dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(SDPBackend.__members__[kernel]):
                attended_BHLD = scaled_dot_product_attention(query_BHLD, query_BHLD, query_BHLD)
        except RuntimeError as error:
            if not str(error).startswith(("No available kernel", "No viable backend")):
                raise
            why = _refusal([str(warning.message) for warning in said]) if device == "cuda" else NEEDS_GPU
            raise MissingExtraError(why) from error
    torch.testing.assert_close(attended_BHLD, query_BHLD)
    return f"ran on {device} in {str(dtype).removeprefix('torch.')}"


def _refusal(said: list[str]) -> str:
    """Of PyTorch's warnings, the one that tells why the wanted kernel was refused."""
    lines = [line.partition(" (Triggered")[0] for line in said]
    why = [line for line in lines if not line.endswith(("because:", "disabled."))]
    return why[0] if why else "not for this GPU"


def _xformers() -> str:
    import torch

    if not has_gpu():
        raise MissingExtraError(NEEDS_GPU)
    found = distribution_version("xformers")
    if found is None:
        raise MissingExtraError("not installed", "pip install 'fglfast[gpu]'")
    from fglfast.engine.attention import xformers_refusal

    if reason := xformers_refusal():
        raise FglError(f"{found}: {reason}", "pip install xformers, of the version that names your torch")
    from xformers.ops import memory_efficient_attention

    query_BLHD = torch.ones(1, 64, 2, 64, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(memory_efficient_attention(query_BLHD, query_BLHD, query_BLHD), query_BLHD)
    return f"{found}, ran on cuda in float16"


def _deepspeed() -> str:
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    return f"{deepspeed.__version__} on {get_accelerator().device_name()}"


def _reduce(backend: str, device: str) -> str:
    import torch
    from torch import distributed

    if device == "cuda" and not has_gpu():
        raise MissingExtraError(NEEDS_GPU)
    if not distributed.is_backend_available(backend):
        raise MissingExtraError(f"torch {torch.__version__} is built without it")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # as the launcher has it
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        total = torch.ones(1, device=device)
        distributed.all_reduce(total)
        torch.testing.assert_close(total, torch.ones_like(total))
    finally:
        distributed.destroy_process_group()
    return "reduced a tensor, in one process"
