"""What follows from a verdict: pass, review or block, and what is answered instead."""

from libra_guard.policy.answers import Language, language_of
from libra_guard.policy.decide import Decision, decide
from libra_guard.policy.profile import Action, Mode, Policy, Rule
from libra_guard.policy.reading import PolicyError, bundled_names, load_policy, read_policy
from libra_guard.policy.watch import PolicyChange, PolicyStore

__all__ = [
    "Action",
    "Decision",
    "Language",
    "Mode",
    "Policy",
    "PolicyChange",
    "PolicyError",
    "PolicyStore",
    "Rule",
    "bundled_names",
    "decide",
    "language_of",
    "load_policy",
    "read_policy",
]
