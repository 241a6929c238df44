"""What a worker keeps for each service that it calls: breaker, limits, retry budget. Pure."""

from registry.model.backend_policy import BackendPolicySpec, CircuitBreaker
from registry.rules.balancing.bounds import Bounds
from registry.rules.balancing.breaker import Breaker, BreakerRule
from registry.rules.balancing.retrying import RetryBudget


class ServiceState:
    """One service's state in one worker; `ports` are those that were called.

    Args:
        policy: in force when the service is first called.
        index: the worker's place among all of its node.
        workers: how many there are: limits of a node are divided among them.
    """

    def __init__(self, policy: BackendPolicySpec, *, index: int, workers: int) -> None:
        self.policy = policy
        self.ports: set[int] = set()
        self._workers = workers
        self.bounds = Bounds(policy.connection_limits, index=index, workers=workers)
        self.breaker = _breaker(policy.circuit_breaker)
        self.budget = RetryBudget(policy.retries.budget, workers=workers)

    def change(self, policy: BackendPolicySpec) -> None:
        """Put another policy in force; what it says nothing new about goes on as it is."""
        former, self.policy = self.policy, policy
        self.bounds.change(policy.connection_limits)
        if policy.circuit_breaker != former.circuit_breaker:
            self.breaker = _breaker(policy.circuit_breaker)
        if policy.retries.budget != former.retries.budget:
            self.budget = RetryBudget(policy.retries.budget, workers=self._workers)


def _breaker(model: CircuitBreaker | None) -> Breaker | None:
    return None if model is None else Breaker(BreakerRule.of(model))
