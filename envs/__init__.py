"""Environments. Import them as `agentopd.envs`."""

if __name__ != "agentopd.envs":
    raise ImportError(
        "import agentopd.envs, not envs: a second copy of the same classes would break isinstance()"
    )
