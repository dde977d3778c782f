"""The kernel stage: which kernels, and their tiles."""
