"""One contender in a process of its own: load once, then draw whenever asked. Knows nothing of the others.

It runs under the interpreter that has its packages: fglfast is imported for fglfast's own contenders only. A line of
JSON on stdin says what to load; every further line asks for one round; every answer is a line of JSON on stdout.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

Ask = dict[str, Any]
Draw = Callable[[], Any]  # pixels uint8 [B,S,S,3]
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "openvino",
    "onnxruntime",
    "optimum-intel",
    "optimum-onnx",
    "xformers",
    "triton",
)
WITHOUT = " without "
TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}  # OpenVINO's names


def ceiling(ask: Ask) -> Draw:
    """What `fglfast bench` holds engines against: a round tries all of it, and the best of all rounds stays."""
    from fglfast.lab.bench.ceiling import probes

    sought = {precision: probes(precision) for precision in ask["precisions"]}
    best = ask["ceilings"] = dict.fromkeys(sought, 0.0)

    def draw() -> None:
        for precision, found in sought.items():
            for probe in found.values():
                began = time.perf_counter()
                probe.run()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                rate = probe.operations / (time.perf_counter() - began) / 1e12
                best[precision] = max(best[precision], rate)

    return draw


def fglfast(ask: Ask, backend: str) -> Draw:
    """Our engine, with the sampler that `synthesize` uses and its way from the decoder to bytes.

    "BACKEND without PACKAGE" is the engine as it comes out where the package is not installed.
    """
    backend, _, absent = backend.partition(WITHOUT)
    engines = Path(ask["engines"])
    if absent:
        sys.modules[absent] = None  # type: ignore[assignment]  # importing it fails from here on
        engines /= f"without-{absent}"  # an engine's key holds what is installed, not what can be imported
    from fglfast.engine.build import build_engine
    from fglfast.engine.networks import sent
    from fglfast.engine.recipe import Recipe
    from fglfast.engine.sketch import to_pixels
    from fglfast.lab.bench.measure import contenders
    from fglfast.sampler.sample import sample
    from fglfast.sampler.schedule import Sampling, Schedule

    rows = ask["batch"] * (2 if ask["guidance"] > 1 else 1)  # of a pass, as the peers' pipelines have them
    recipe = Recipe(image_size=ask["image_size"], unet_batch=rows, vae_batch=ask["vae_batch"])
    model = Path(ask["model"])
    engine = build_engine(contenders(recipe, [backend])[0], model, engines)
    ask["precision"] = engine.build.precision
    kernels = engine.folder / "attention.json"
    ask["attention"] = json.loads(kernels.read_text(encoding="utf-8")) if kernels.exists() else None
    sampling = Sampling(steps=ask["steps"], guidance_scale=ask["guidance"], scheduler=ask["scheduler"])
    schedule = Schedule.of_model(model, sampling)
    noise_BCHW, text_LD, negative_LD = _inputs(ask)
    networks = engine.networks
    text_2LD = torch.stack([text_LD, negative_LD])

    def draw() -> Any:
        text_LE, negative_LE = networks.project(sent(text_2LD, networks.device))
        text_BLE, noise = text_LE.expand(len(noise_BCHW), -1, -1), sent(noise_BCHW, networks.device)
        images_BCHW = networks.decode(sample(networks.denoise, noise, text_BLE, negative_LE, schedule))
        return to_pixels(images_BCHW).cpu().numpy()

    return draw


def diffusers(ask: Ask, channels_last: bool = False, compiled: str = "") -> Draw:
    """Diffusers' own pipeline on PyTorch; `compiled` is torch.compile's mode.

    What goes with max-autotune is as in diffusers' guide "Accelerate inference".
    """
    from diffusers import StableDiffusionPipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ask["precision"] = ask["dtype"]
    options = {"torch_dtype": getattr(torch, ask["dtype"]), "use_safetensors": True}
    pipeline = StableDiffusionPipeline.from_pretrained(ask["model"], **options).to(device)
    if channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    if compiled == "max-autotune":
        from torch._inductor import config

        config.conv_1x1_as_mm = config.coordinate_descent_tuning = config.coordinate_descent_check_all_directions = True
        config.epilogue_fusion = False
        pipeline.fuse_qkv_projections()
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet, mode=compiled, fullgraph=True)
        pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode=compiled, fullgraph=True)
    return _pipeline(pipeline, ask)


def optimum_intel(ask: Ask, static: bool = False, hint: str = "") -> Draw:
    """optimum-intel's OpenVINO pipeline as exported, or reshaped to the one batch it will see.

    In which type it computes OpenVINO chooses, unless a hint names it: bfloat16 where the processor has it.
    """
    from optimum.intel import OVStableDiffusionPipeline

    options = {"export": True, "compile": False, "ov_config": {"INFERENCE_PRECISION_HINT": hint} if hint else {}}
    pipeline = OVStableDiffusionPipeline.from_pretrained(ask["model"], **options)
    if static:
        side = ask["image_size"]
        pipeline.reshape(batch_size=1, height=side, width=side, num_images_per_prompt=ask["batch"])
    pipeline.compile()
    ask["precision"] = TYPES[pipeline.unet.request.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
    return _pipeline(pipeline, ask)


def optimum_onnx(ask: Ask) -> Draw:
    """optimum-onnx's ONNX Runtime pipeline."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    ask["precision"] = "float32"
    return _pipeline(ORTStableDiffusionPipeline.from_pretrained(ask["model"], export=True), ask)


LOADERS: dict[str, Callable[[Ask], Draw]] = {
    "ceiling": ceiling,
    "diffusers eager": diffusers,
    "diffusers channels_last": partial(diffusers, channels_last=True),
    "diffusers torch.compile": partial(diffusers, channels_last=True, compiled="default"),
    "diffusers torch.compile max-autotune": partial(diffusers, channels_last=True, compiled="max-autotune"),
    "optimum-intel": optimum_intel,
    "optimum-intel static": partial(optimum_intel, static=True),
    "optimum-intel float32": partial(optimum_intel, hint="f32"),
    "optimum-intel static float32": partial(optimum_intel, static=True, hint="f32"),
    "optimum-onnx": optimum_onnx,
}


def main() -> None:
    """Serve one contender until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print
    ask: Ask = json.loads(sys.stdin.readline())
    started, name = time.monotonic(), ask["contender"]
    try:
        load = LOADERS.get(name) or partial(fglfast, backend=name.removeprefix("fglfast "))
        draw = load(ask)
        loaded, pixels = time.monotonic(), draw()  # the first round compiles
    except Exception as error:  # whatever a peer raises is the reason it is left out
        answers.write(json.dumps({"error": _reason(error)}) + "\n")
        return
    if pixels is not None:
        np.save(ask["pixels"], pixels)
    answers.write(
        json.dumps(
            {
                "load_seconds": round(loaded - started, 2),
                "first_round_seconds": round(time.monotonic() - loaded, 2),
                "versions": _versions(),
                "precision": ask.get("precision"),
                "attention": ask.get("attention"),
            }
        )
        + "\n"
    )
    _rest()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of drawing: an engine that was built here was judged in float32 too
    for _ in sys.stdin:
        try:
            draw()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            answer = {"peak_memory_bytes": _peak_memory(), "ceilings": ask.get("ceilings")}
        except Exception as error:  # a GPU that others fill too
            answer = {"error": _reason(error)}
        answers.write(json.dumps(answer) + "\n")
        _rest()


def _rest() -> None:
    """Give cached GPU memory back: whose turn it is has all but the others' weights and CUDA graphs."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _pipeline(pipeline: Any, ask: Ask) -> Draw:
    """A round of any pipeline with diffusers' call: our noise, our text embeddings, our solver."""
    import diffusers

    name, config = ask["solver"]
    pipeline.scheduler = getattr(diffusers, name).from_config(config)
    pipeline.set_progress_bar_config(disable=True)
    torch_pipeline = isinstance(pipeline, diffusers.DiffusionPipeline) and hasattr(pipeline.unet, "parameters")
    place = {"device": pipeline.device, "dtype": getattr(torch, ask["dtype"])} if torch_pipeline else {}
    noise_BCHW, text_LD, negative_LD = (tensor.to(**place) if place else tensor for tensor in _inputs(ask))
    call = partial(
        pipeline,
        prompt_embeds=text_LD[None],
        negative_prompt_embeds=negative_LD[None],
        num_images_per_prompt=ask["batch"],
        num_inference_steps=ask["steps"],
        guidance_scale=ask["guidance"],
        height=ask["image_size"],
        width=ask["image_size"],
        output_type="pt" if torch_pipeline else "np",
    )

    def draw() -> Any:
        images = call(latents=noise_BCHW.clone()).images
        if torch_pipeline:  # bytes on its own device
            return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return (images.clip(0, 1) * 255).round().astype("uint8")

    return draw


def _inputs(ask: Ask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise [B,C,H,W], text embedding [L,D] and negative one [L,D], float32."""
    with np.load(ask["inputs"]) as arrays:
        return tuple(torch.from_numpy(arrays[name]) for name in ("noise", "text", "negative"))  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
