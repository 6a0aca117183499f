"""Teachers. Import them as `agentopd.teachers`."""

if __name__ != "agentopd.teachers":
    raise ImportError(
        "import agentopd.teachers, not teachers: a second copy of the same classes would break "
        "isinstance()"
    )
