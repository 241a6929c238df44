"""The rules, pure: values in, values out. Proxy, control plane and CLI share this one evaluator."""

from registry.rules.authorize import (
    Decision,
    Denied,
    Explanation,
    Permit,
    Verdict,
    WorkloadPolicies,
    authorize,
    compile_policies,
    explain,
)
from registry.rules.pick import Candidate, pick

__all__ = [
    "Candidate",
    "Decision",
    "Denied",
    "Explanation",
    "Permit",
    "Verdict",
    "WorkloadPolicies",
    "authorize",
    "compile_policies",
    "explain",
    "pick",
]
