"""A few-step student of a compiled teacher: the engine draws pairs of noise and latents, a UNet learns from them."""
