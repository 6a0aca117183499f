"""Every built-in part, imported so that configurations find it by its kind."""

# ruff: noqa: F401

import agentopd.divergences.alpha
import agentopd.divergences.bounds
import agentopd.divergences.future
import agentopd.divergences.kl
import agentopd.mixes.attempts
import agentopd.mixes.likelihood
import agentopd.mixes.modulating
import agentopd.mixes.routing
import agentopd.mixes.scored
import agentopd.mixes.shared
import agentopd.privilege.controls
import agentopd.privilege.demonstrations
import agentopd.privilege.environment
import agentopd.privilege.extracted
import agentopd.privilege.peers
import agentopd.privilege.texts
import agentopd.privilege.view
import agentopd.privilege.writing.experience
import agentopd.privilege.writing.hindsight
import agentopd.privilege.writing.hints
import agentopd.privilege.writing.skills
import agentopd.rollout.policies.demonstrations
import agentopd.rollout.policies.hinted
import agentopd.rollout.policies.mixed
import agentopd.rollout.policies.prefix
import agentopd.rollout.policies.retry
import agentopd.rollout.policies.student
import agentopd.rollout.policies.truncated
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
