"""A client of Libra's server: what a guard in this process says, said by one elsewhere.

>>> with Client("http://127.0.0.1:8300") as client:
...     judged = client.check("如何泡一杯绿茶？", "水温八十度左右，两三分钟即可。")
>>> judged.label, judged.decision.action
(<Label.SAFE: '安全'>, <Action.PASS: 'pass'>)
"""

from libra_guard.client.awaited import AsyncClient, AsyncGuardedStream
from libra_guard.client.blocking import Client, GuardedStream
from libra_guard.client.protocol import Judged, Moderation

__all__ = ["AsyncClient", "AsyncGuardedStream", "Client", "GuardedStream", "Judged", "Moderation"]
