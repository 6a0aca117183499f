"""vLLM as sampler: in this process, or as a server."""
