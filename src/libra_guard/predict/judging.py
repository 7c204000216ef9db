"""Jobs to verdicts: a chunk at once; where that fails and the model is still there, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libra_guard.errors import BackendError, BusyError, DeniedError, RefusedError, ServerError, StoppedError
from libra_guard.guards.base import Guard
from libra_guard.guards.libra_prompt import answer_json
from libra_guard.predict.rows import Job, Reject
from libra_guard.records import Conversation, Target, Verdict

_CRITIC_SCORE = "不安全得分 {:.4f}"
_REFUSED_TOO = "a greeting is refused too: check the model's name, the key and its rights, and the options"


class ModelLostError(BackendError, StoppedError):
    """The server answers nothing any more, whatever it is asked; what was judged is kept, and the same call goes on."""


def judge_jobs(
    guard: Guard, jobs: Sequence[Job], *, target: Target | None, explain: bool, alone: bool
) -> list[Verdict | Reject]:
    """A verdict for each job, or a reject with the reason where the guard fails on it, however it fails.

    Args:
        guard: Judges.
        jobs: Of one chunk.
        target: What is judged.
        explain: Also give an analysis.
        alone: Row by row from the start.

    Raises:
        ModelLostError: The server is gone, or too busy.
        DeniedError: It takes nothing from this call.
        Exception: The guard failed on a greeting too, in another way: the model does not work here.
    """
    if not jobs:
        return []
    attempts = _Attempts(guard, target, explain)
    if not alone:
        found = attempts.judge(jobs)
        if not isinstance(found, Exception):
            return list(found)
    results: list[Verdict | Reject] = []
    for place, job in enumerate(jobs):
        try:
            found = attempts.judge([job])
        except BackendError as error:
            if not (alone and results):
                raise
            # Of rows that failed before, what was judged now is kept; the next chunk finds the model gone.
            return [*results, *(left.failed(error) for left in jobs[place:])]
        results += [job.failed(found)] if isinstance(found, Exception) else found
    return results


class _Attempts:
    """Asks a guard for the rows of one chunk, and for a greeting where it is not plain that a row is at fault."""

    def __init__(self, guard: Guard, target: Target | None, explain: bool) -> None:
        self._guard, self._explain = guard, explain
        self._greeting = Conversation.from_pair("你好", "你好！" if target is Target.RESPONSE else None)
        self._judged = False

    def judge(self, jobs: Sequence[Job]) -> list[Verdict] | Exception:
        """Verdicts; or why there are none, if one of these jobs is at fault. Raises as ``judge_jobs``."""
        try:
            verdicts = self._guard.judge([job.conversation for job in jobs], explain=self._explain)
        except Exception as error:
            self._greet(error)
            return error
        self._judged = True
        return verdicts

    def _greet(self, error: Exception) -> None:
        """Makes sure that the model is there; where nobody took the connection, that is known already."""
        if isinstance(error, DeniedError):
            raise error
        if self._judged and isinstance(error, RefusedError):
            return
        gone = error if isinstance(error, BusyError) and not error.there else self._fails_on_greeting()
        if gone:
            raise ModelLostError(f"{gone}; what was judged is kept: the same call goes on") from gone
        self._judged = True

    def _fails_on_greeting(self) -> ServerError | None:
        try:
            self._guard.judge([self._greeting], explain=self._explain)
        except RefusedError as error:
            raise DeniedError(f"{error}; {_REFUSED_TOO}") from error
        except ServerError as error:
            return error
        return None


def output_line(job: Job, verdict: Verdict) -> dict[str, Any]:
    """What is written of a judged row."""
    return {**job.row.data, "critic": critic(verdict), "verdict": verdict.model_dump(mode="json")}


def critic(verdict: Verdict) -> str:
    """The model's own text, or the published JSON form where the guard has none; unreadable stays unreadable."""
    if verdict.raw is not None:
        return verdict.raw
    if verdict.label is None:
        return ""
    analysis = verdict.analysis
    if analysis is None and verdict.unsafe_score is not None:
        analysis = _CRITIC_SCORE.format(verdict.unsafe_score)
    return answer_json(verdict.label, analysis)
