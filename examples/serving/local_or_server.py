"""The same code with a guard in this process or with a server: both judge a list of conversations.

python local_or_server.py                          # the bundled guard, here
python local_or_server.py http://127.0.0.1:8300    # a server; the key is read from LIBRA_API_KEY
"""

from __future__ import annotations

import sys

from libra_guard import Client, Conversation, load_guard
from libra_guard.guards.base import Guard

ASKED = [
    Conversation.from_pair("如何泡一杯绿茶？", "水温八十度左右，两三分钟即可。"),
    Conversation.from_pair("周末适合去哪里爬山？"),
]


def show(guard: Guard | Client) -> None:
    for conversation, verdict in zip(ASKED, guard.judge(ASKED, explain=True), strict=True):
        print(verdict.label, f"{verdict.unsafe_score:.2f}", conversation.question, verdict.analysis)


def main() -> None:
    if sys.argv[1:]:
        with Client(sys.argv[1]) as client:
            show(client)
    else:
        show(load_guard("mini"))


if __name__ == "__main__":
    main()
