"""The generator as a PyTorch model: load any diffusers directory, or pretrain the small one."""
