"""Finds out whether the servers that a run needs answer, before hours of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from libra_guard.backends.base import Prompt
from libra_guard.backends.registry import backend_class
from libra_guard.errors import BackendError, ServerError
from libra_guard.guards.registry import guard_entry
from libra_guard.records import Conversation
from libra_guard.synth.adversarial.adversary import room
from libra_guard.synth.adversarial.settings import AdversarialConfig
from libra_guard.synth.config import JudgeSettings
from libra_guard.synth.seats.backend import is_served
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.endpoints import EndpointsAwayError, EndpointsLostError
from libra_guard.synth.seats.store import CallStore

_GREETING = "你好"
_PATIENCE = 2
"""Failures after which an endpoint is given up here: nothing is lost yet where the run ends."""
_HINT = "it was asked for no more than a greeting: check the model's name, the key and its rights, and the options"


def check_servers(config: AdversarialConfig, store: CallStore, beside: Path) -> None:
    """Asks each seat's server once for as little as it can be asked: the writer for a greeting, a judge for one vote.

    The answers are kept with the others, so that who answered once is not asked again. Models in this process are left
    out: to load one takes the memory that the training needs.

    Args:
        config: The run's settings.
        store: Where calls are kept.
        beside: Folder that files named by the settings are looked for in where they are not there as written.

    Raises:
        UsageError: A key is missing, or a model cannot be had as its settings say.
        BudgetSpentError: The budget is spent.
        EndpointsAwayError: A server is not there, or too busy.
        EndpointsLostError: It takes nothing: its key, the model's name or an option is wrong.
    """
    models = {
        name: one.model_copy(update={"patience": min(one.patience, _PATIENCE)}) for name, one in config.models.items()
    }
    # By a cast of its own, for what the run tells of its calls is what the rounds took, whenever they were done.
    cast = Cast(config.model_copy(update={"models": models}), store, beside)
    for place, ask in _asked(config, cast):
        try:
            ask()
        except EndpointsLostError:
            raise
        except BackendError as error:
            lost = EndpointsAwayError if isinstance(error, ServerError) else EndpointsLostError
            raise lost(f"{place}: {error}; {_HINT}") from None


def _asked(config: AdversarialConfig, cast: Cast) -> Iterator[tuple[str, Callable[[], object]]]:
    """Where each model on a server stands in the settings, and how it is asked."""
    name = config.seats.writer
    if is_served(backend_class(config.models[name].backend)):
        yield f"models.{name}", partial(_greet, config, cast)
    for place, judge in config.seats.sitting.items():
        if is_served(backend_class(_backend(config, judge))):
            yield f"models.{judge.model}" if judge.model else place, partial(_vote, cast, judge)


def _backend(config: AdversarialConfig, judge: JudgeSettings) -> str:
    if judge.model:
        return config.models[judge.model].backend
    return str(judge.options.get("backend", guard_entry(judge.guard.partition(":")[0]).backends[0]))


def _greet(config: AdversarialConfig, cast: Cast) -> None:
    """With the settings that it is asked to write with: one of them may be what it does not take."""
    model = config.models[config.seats.writer]
    cast.backend(config.seats.writer).complete(
        [Prompt.from_user(_GREETING, raw=model.raw)],
        max_tokens=room(config),
        temperature=model.temperature,
        seed=config.seed,
    )


def _vote(cast: Cast, judge: JudgeSettings) -> None:
    """In the judge's own form: a server that has no chat template, or no log probabilities, may know no other."""
    cast.judge(judge).guard.judge([Conversation.from_pair(_GREETING, _GREETING)])
