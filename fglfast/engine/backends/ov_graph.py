"""What of a UNet must not be rounded, taken out of an OpenVINO graph.

OpenVINO computes a network's inputs in its type, too, and bfloat16 has no 999: the sinusoids of a timestep would be
those of another. PyTorch computes them in float32 and rounds what comes out.
"""

from typing import Any

TIMESTEP = "timestep"
PRODUCTS = ("MatMul", "Convolution")


def without_sinusoids(unet: Any) -> tuple[Any, Any]:
    """Cut a UNet at the first products that a timestep comes to.

    Args:
        unet: an `openvino.Model` of one batch size with an input "timestep" [B]; it is changed.

    Returns:
        The sinusoids, timestep [B] -> [B,C], and the UNet, which takes those in the place of its timestep.
    """
    import openvino
    from openvino import opset13 as ops
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())  # the batch is read off the latents
    folding.run_passes(unet)
    [timestep] = [one for one in unet.get_parameters() if TIMESTEP in one.output(0).get_names()]
    readers = _readers(timestep)
    [made] = {reader.get_source_output() for reader in readers}
    sinusoids = ops.parameter(made.get_partial_shape(), made.get_element_type().to_dtype(), name="sinusoids")
    for reader in readers:
        reader.replace_source_output(sinusoids.output(0))
    taken = [sinusoids if one == timestep else one for one in unet.get_parameters()]
    return openvino.Model([made], [timestep]), openvino.Model(unet.get_results(), taken)


def _readers(parameter: Any) -> list[Any]:
    """The inputs of products that read what is made of a parameter, and of it alone."""
    found, waiting, seen = [], [parameter], set()
    while waiting:
        node = waiting.pop()
        for target in (target for output in node.outputs() for target in output.get_target_inputs()):
            reader = target.get_node()
            if reader.get_type_name() in PRODUCTS:
                found.append(target)
            elif reader.get_friendly_name() not in seen:
                seen.add(reader.get_friendly_name())
                waiting.append(reader)
    return found
