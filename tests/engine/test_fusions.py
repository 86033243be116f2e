"""Fused operators against the modules they come from: by architecture, and what is refused."""

import onnx
import onnxruntime
import pytest
import torch
from cuda_operators import on_cpu
from diffusers.models.attention_processor import Attention
from torch import nn

from fglfast.base.errors import BadInputError, FglError
from fglfast.engine.backends.ort import CPU, CUDA, FUSED
from fglfast.engine.backends.ort_graph import optimized, save
from fglfast.engine.export import export
from fglfast.engine.exported import DECODER, TEXT, UNET, Route, example_inputs
from fglfast.engine.fusions import Exported, count, counting, require
from fglfast.generator.load import load_generator, read_shapes


@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_module_of_a_family_becomes_a_fused_operator(family, shallow, tmp_path):
    model = shallow(family)
    shapes = read_shapes(model, 64)
    export(load_generator(model), shapes, tmp_path, Route(fused=True))
    exported, reference = Exported.load(tmp_path), load_generator(model)
    networks = {UNET: reference.unet, DECODER: reference.decoder}
    assert exported.float16 == ((UNET,) if family == "sdxl" else (UNET, DECODER))
    for name, network in networks.items():
        modules = exported.modules[name]
        parts = (network.unet if name == UNET else network.vae.decoder).modules()
        assert modules["Attention"] == sum(isinstance(part, Attention) for part in parts) > 0
        inputs = {key: torch.randn(tensor.shape) for key, tensor in example_inputs(shapes, 2)[name].items()}
        if name == UNET:
            inputs["timestep"] = torch.tensor([999.3, 17.77])
        expected = network(*inputs.values())
        # On 6 of 150 inputs the narrow sd15 amplified rounding beyond 1e-4, mostly eager too; the median is 2e-6.
        for half, bound in ((False, 3e-3), (True, 2e-2)):
            graph = optimized(tmp_path / name, half)
            save(graph, tmp_path / "optimized.onnx")
            found = count(tmp_path / "optimized.onnx")
            require(found, modules, FUSED[CUDA], name)
            assert found["MultiHeadAttention"] == modules["Attention"] and found["NhwcConv"] == modules["Conv2d"]
            actual = _computed(on_cpu(graph), inputs)
            assert (actual - expected).norm() < bound * expected.norm()


def _computed(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    return torch.from_numpy(session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})[0])


def test_routes_differ_in_what_they_are_called():
    routes = [
        Route(fused=fused, precision=precision) for fused in (False, True) for precision in ("float32", "float16")
    ]
    assert len({str(route) for route in (*routes, Route(opset=23))}) == 5


def test_only_modules_that_run_are_counted_and_each_once():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)
            self.attention = Attention(4, heads=2, norm_num_groups=2)

        def forward(self, image):
            return self.attention(self.norm(self.used(self.used(image))))

    network = Network()
    with counting(network) as counts:
        network(torch.randn(1, 4, 2, 2))
    assert counts == {"Attention": 1, "Conv2d": 1, "GroupNorm": 2, "LayerNorm": 0}
    network(torch.randn(1, 4, 2, 2))
    assert counts["Attention"] == 1


def test_what_is_expected_and_found_is_named():
    found = {"GroupNorm": 2, "SkipGroupNorm": 1}
    operators = {"GroupNorm": ("GroupNorm", "SkipGroupNorm")}
    require(found, {"GroupNorm": 3, "Conv2d": 9}, operators, UNET)
    require(found, {}, operators, TEXT)
    for expected in (2, 4):
        with pytest.raises(FglError, match=f"3 GroupNorm or SkipGroupNorm operators for {expected} GroupNorm modules"):
            require(found, {"GroupNorm": expected}, operators, UNET)


def test_counts_are_of_operators_that_are_many_in_one(tmp_path):
    nodes = [
        onnx.helper.make_node(kind, ["x"], ["y"], domain=domain)
        for kind, domain in (
            ("Conv", ""),
            ("Softmax", ""),
            ("Conv", "com.microsoft.nchwc"),
            ("QuickGelu", "com.microsoft"),
        )
    ]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([*nodes, nodes[-1]], "graph", [], [])), tmp_path / "x.onnx")
    assert count(tmp_path / "x.onnx") == {"QuickGelu": 2, "Softmax": 1, "nchwc.Conv": 1}


def test_a_damaged_record_is_said(tmp_path):
    with pytest.raises(BadInputError, match=r"export\.json: cannot be read"):
        Exported.load(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"export\.json: modules: Field required"):
        Exported.load(tmp_path)
