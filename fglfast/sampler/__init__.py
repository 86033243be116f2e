"""Noise to latents: solvers, steps and guidance."""
