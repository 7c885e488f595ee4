"""Connections that never finish asking are closed, or a few of them could hold every socket (the "slow loris").

uvicorn waits without end for the first request of a connection and for the rest of one that came in part; what comes
after the headers, the gate looks after.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0


class Impatient(H11Protocol):
    """uvicorn's connection, closed where a request's line and headers are not whole within HEAD_SECONDS of the
    connection's beginning, or later of their first byte."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asking():
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_asking(self) -> bool:
        """No request is whole that has not been answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self._is_asking() and self.transport.get_protocol() is self and not self.transport.is_closing():
            self.transport.close()
