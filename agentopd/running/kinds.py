"""Every built-in part, imported so that configurations find it by its kind."""

# ruff: noqa: F401

import agentopd.divergences.alpha
import agentopd.divergences.kl
import agentopd.mixes.modulating
import agentopd.mixes.routing
import agentopd.mixes.scored
import agentopd.mixes.shared
import agentopd.privilege.controls
import agentopd.privilege.sources
import agentopd.privilege.view
import agentopd.rollout.policies
import agentopd.rollout.vllm.engines
import agentopd.teachers.copies
import agentopd.teachers.external
import agentopd.teachers.logprobs
import agentopd.teachers.routed
import agentopd.teachers.served
import agentopd.teachers.trust_region
import agentopd.units.decisions
import agentopd.units.rubric.rubricator
import agentopd.units.rubric.unit
import agentopd.units.stretches
import agentopd.weights.episode
import agentopd.weights.place
import agentopd.weights.token
import agentopd.weights.turn
