"""Programs as CUDA C: the source text of a kernel, what it is given, and what it costs."""
