"""The names that Stable Diffusion's own checkpoints give to the tensors of a model folder: to make one for a test.

Written from the modules that those checkpoints were saved from, CompVis' and Stability's UNet and VAE and OpenCLIP's
text transformer, the other way round than what converts them.
"""

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
    "add_embedding.linear_1": "label_emb.0.0",  # XL's alone
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
QKV = ("q_proj", "k_proj", "v_proj")
LAYERS = 2  # of each block


def unet_name(name, plain_up):
    """Of a UNet with `LAYERS` layers in a block, those of its blocks `plain_up` upwards without attention."""
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
        return f"output_blocks.{(LAYERS + 1) * int(block) + LAYERS}.{1 if block in plain_up else 2}.{rest}"
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


def open_clip(weights):
    """The tensors of a text encoder as OpenCLIP names and shapes them: q, k and v as one, the projection transposed."""
    named = {}
    for name, tensor in weights.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            named["text_projection"] = tensor.T.contiguous()
        elif name in OPEN_CLIP:
            named[OPEN_CLIP[name]] = tensor
        elif ".q_proj." in name:
            three = [weights[next(key for key in weights if key.endswith(name.replace("q_proj", one)))] for one in QKV]
            layer, _, end = name.removeprefix("encoder.layers.").partition(".self_attn.q_proj.")
            named[f"transformer.resblocks.{layer}.attn.in_proj_{end}"] = torch.cat(three)
        elif not any(f".{one}." in name for one in QKV):
            layer, _, rest = name.removeprefix("encoder.layers.").partition(".")
            part, _, end = rest.rpartition(".")
            named[f"transformer.resblocks.{layer}.{OPEN_CLIP_LAYER[part]}.{end}"] = tensor
    return named | {"logit_scale": torch.tensor(4.6)}


def unused_layer(named):
    """OpenCLIP's last layer, which Stable Diffusion 2 has in its file and does not use, and its projection."""
    last = 1 + max(int(name.split(".")[2]) for name in named if name.startswith("transformer."))
    first = {name: tensor for name, tensor in named.items() if name.startswith("transformer.resblocks.0.")}
    width = named["ln_final.weight"].shape[0]
    more = {name.replace(".0.", f".{last}.", 1): torch.full_like(tensor, 9.0) for name, tensor in first.items()}
    return named | more | {"text_projection": torch.full((width, width), 9.0)}


def save_checkpoint(folder, path, kind="v1"):
    """A model folder of Stable Diffusion as one file: 1.x (`v1`), 2.x (`v2`) or XL (`xl_base`)."""
    weights = {part.name: load_file(next(part.glob("*.safetensors"))) for part in folder.iterdir() if holds(part)}
    save_file({name: tensor.contiguous() for name, tensor in as_saved(weights, kind).items()}, path)


def as_saved(weights, kind):
    """The tensors of a checkpoint of a kind, from those of each network by its name."""
    plain_up = {"2"} if kind == "xl_base" else {"0"}
    tensors = {f"model.diffusion_model.{unet_name(key, plain_up)}": weights["unet"][key] for key in weights["unet"]}
    for name, tensor in weights["vae"].items():
        there = vae_name(name)
        square = "attn_1" in there and tensor.ndim == 2  # there a convolution
        tensors[f"first_stage_model.{there}"] = tensor[:, :, None, None] if square else tensor
    return tensors | {prefix + name: one for prefix, texts in text_parts(weights, kind) for name, one in texts.items()}


def text_parts(weights, kind):
    """The text encoders of a checkpoint, each with what its names begin with."""
    if kind == "v2":
        return [("cond_stage_model.model.", unused_layer(open_clip(weights["text_encoder"])))]
    own = {f"text_model.{name.removeprefix('text_model.')}": part for name, part in weights["text_encoder"].items()}
    own["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if kind == "v1":
        return [("cond_stage_model.transformer.", own)]
    second = open_clip(weights["text_encoder_2"])
    return [("conditioner.embedders.0.transformer.", own), ("conditioner.embedders.1.model.", second)]


def holds(part):
    """Whether a part of a model folder has weights."""
    return part.is_dir() and any(part.glob("*.safetensors"))
