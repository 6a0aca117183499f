"""What holds for every test: one thread, no network, no display, the same examples each time."""

import os

# Before anything imports torch, transformers or matplotlib, which read these once. The tensors of
# the tests are tiny: more threads cost time, and change the order of sums.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

from hypothesis import settings

# Without a deadline, which a busy machine misses; derandomized, so that the gates judge the change.
settings.register_profile("agentopd", deadline=None, derandomize=True)
settings.load_profile("agentopd")
