"""Kernels on CUDA: loading, planning and launching. The public calls dispatch to it."""
