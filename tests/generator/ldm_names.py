"""The names that Stable Diffusion's own checkpoints give to the tensors of a model folder: to make one for a test."""

import re

import torch
from safetensors.torch import load_file, save_file

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
LAYERS = 2  # of each block


def unet_name(name):
    """Of a UNet with `LAYERS` layers in a block."""
    for ours, theirs in TOP.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{_inside(found[1], found[3])}"
    side, block, kind, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name).groups()
    if kind == "downsamplers":
        return f"input_blocks.{(LAYERS + 1) * (int(block) + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{(LAYERS + 1) * int(block) + LAYERS}.{1 if block == '0' else 2}.{rest}"
    first = (LAYERS + 1) * int(block) + (1 if side == "down" else 0)
    place = f"{'input' if side == 'down' else 'output'}_blocks.{first + int(layer)}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{_inside(kind, rest)}"


def _inside(kind, rest):
    if kind == "attentions":
        return rest
    part, _, end = rest.rpartition(".")
    return f"{BLOCK[part]}.{end}"


def vae_name(name):
    """Of a VAE of four blocks."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.conv", r"down.\1.downsample.conv", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda got: f"up.{3 - int(got[1])}.block.{got[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda got: f"up.{3 - int(got[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda got: f"mid.block_{int(got[1]) + 1}", name)
    if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{found[1]}.mid.attn_1.{ATTENTION[found[2]]}.{found[3]}"
    return name


def save_checkpoint(folder, path):
    """A model folder of Stable Diffusion 1.x as one file."""
    tensors = {}
    for part, prefix, rename in (
        ("unet", "model.diffusion_model.", unet_name),
        ("vae", "first_stage_model.", vae_name),
        ("text_encoder", "cond_stage_model.transformer.text_model.", str),
    ):
        for name, tensor in load_file(next((folder / part).glob("*.safetensors"))).items():
            if "attn_1" in rename(name) and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # there a convolution
            tensors[prefix + rename(name)] = tensor.contiguous()
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path)
