"""The votes: every judge labels every pair; where they differ, a stronger one decides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from libra_guard.records import Conversation, Vote
from libra_guard.synth.records import Answered, Judged
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.roles import Judge
from libra_guard.synth.seats.together import Task, side_by_side
from libra_guard.synth.work import Done, Reject, Work, pieces

STEP = "annotate"


def annotate(work: Work, pairs: Sequence[Answered]) -> Done:
    """The votes of all judges, in the settings' order; where they differ, the arbiter's beside them.

    Judges on servers are asked side by side, whatever runs in this process in turn.

    The arbiter is not asked about pairs that a judge could not be read on, unless the others differ already.

    Returns:
        The pairs with their votes; pairs that a judge failed on, with reasons.
    """
    judges = [work.cast.judge(settings) for settings in work.config.seats.judges]
    last = work.config.seats.arbiter
    arbiter = work.cast.judge(last) if last else None
    rows: list[Judged] = []
    rejects: list[Reject] = []
    part, explain = work.part(pairs), work.config.annotate.explain
    with work.progress(STEP, len(part)) as advance:
        for piece in pieces(part, work.config.annotate.chunk):
            told = [Conversation.from_pair(pair.question, pair.response) for pair in piece]
            votes = [Task(judge.lane, partial(judge.votes, told, explain=explain)) for judge in judges]
            columns = side_by_side(votes, work.cast.halt)
            judged = [_row(pair, votes) for pair, votes in zip(piece, zip(*columns, strict=True), strict=True)]
            if arbiter:
                judged = _arbitrated(judged, arbiter, explain=explain)
            for row in judged:
                (rejects if isinstance(row, Reject) else rows).append(row)  # type: ignore[arg-type]
            advance(len(piece))
    unreadable = {judge.name: _unreadable(rows, judge.name) for judge in judges}
    return Done(rows, rejects, {"unreadable": unreadable})


def _row(pair: Answered, votes: Sequence[Vote | Failure]) -> Judged | Reject:
    for vote in votes:
        if isinstance(vote, Failure):
            return Reject.of(vote, pair)
    return Judged(**pair.model_dump(), votes=tuple(vote for vote in votes if isinstance(vote, Vote)))


def _arbitrated(rows: Sequence[Judged | Reject], arbiter: Judge, *, explain: bool) -> list[Judged | Reject]:
    hard = [row for row in rows if isinstance(row, Judged) and row.hard]
    if not hard:
        return list(rows)
    told = [Conversation.from_pair(row.question, row.response) for row in hard]
    decided = dict(zip((row.id for row in hard), arbiter.votes(told, explain=explain), strict=True))
    found: list[Judged | Reject] = []
    for row in rows:
        vote = decided.get(row.id) if isinstance(row, Judged) else None
        if isinstance(row, Reject) or vote is None:
            found.append(row)
        elif isinstance(vote, Failure):
            found.append(Reject.of(vote, row))
        else:
            found.append(row.model_copy(update={"arbiter": vote}))
    return found


def _unreadable(rows: Sequence[Judged], judge: str) -> int:
    return sum(vote.label is None for row in rows for vote in row.votes if vote.judge == judge)
