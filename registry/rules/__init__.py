"""The rules, pure: values in, values out. Proxy, control plane and CLI share this one evaluator."""

from registry.rules.authorize import Decision, Denied, Permit, WorkloadPolicies, authorize
from registry.rules.explain import Explanation, Miss, RuleVerdict, Verdict, explain
from registry.rules.peers import Requirement
from registry.rules.request import AuthRequest, HttpRequest
from registry.rules.selection import MeshPolicies, compile_policies

__all__ = [
    "AuthRequest",
    "Decision",
    "Denied",
    "Explanation",
    "HttpRequest",
    "MeshPolicies",
    "Miss",
    "Permit",
    "Requirement",
    "RuleVerdict",
    "Verdict",
    "WorkloadPolicies",
    "authorize",
    "compile_policies",
    "explain",
]
