"""The checks of `agentopd.check.check_env`: form, repeatability and play."""
