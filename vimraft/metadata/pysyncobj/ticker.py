"""The node's own thread: it runs rounds for as long as the process lives.

May live here: the thread and what ends it. PySyncObj's own thread ends silently when the thread that
created the node ends; this one is a daemon that ends by `stop` only, and takes the process with it
when it cannot go on, since a manager whose log stands still must not look alive.
"""

import threading
from typing import Final

import structlog

from vimraft.metadata.pysyncobj.applying import EXIT_BUG
from vimraft.metadata.pysyncobj.config import TICK_S
from vimraft.metadata.pysyncobj.node import Dead, Fatal, RaftNode

log = structlog.get_logger(__name__)

MAX_FAILED_ROUNDS: Final = 100
"""In a row. A single failed round is a message that broke off; PySyncObj recovers by resending."""
HAND_OVER_S: Final = 0.5
"""How long a leader that stops tries to hand its office over."""


class Ticker(threading.Thread):
    def __init__(self, node: RaftNode, fatal: Fatal) -> None:
        super().__init__(name="vimraft-raft", daemon=True)
        self._node = node
        self._fatal = fatal
        self._stopping = threading.Event()
        self.first_round_done = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end; join() it afterwards. Any thread."""
        self._stopping.set()
        self._node.wake()

    def run(self) -> None:
        failed_rounds = 0
        try:
            while not self._stopping.is_set():
                failed_rounds = failed_rounds + 1 if not self._round() else 0
                if failed_rounds >= MAX_FAILED_ROUNDS:
                    self._node.dead = True
                    self._fatal(EXIT_BUG, f"{failed_rounds} failed rounds in a row")
                    break
                self.first_round_done.set()
            self._hand_over()
        except Dead:
            pass  # tests only: `fatal` came back; production has exited
        finally:
            self.first_round_done.set()
            self._node.close()

    def _round(self) -> bool:
        try:
            self._node.pump(TICK_S)
        except Dead:
            raise
        except Exception:
            log.exception("raft.round_failed")
            self._stopping.wait(TICK_S)
            return False
        return True

    def _hand_over(self) -> None:
        """A leader that leaves in order spares the others an election timeout."""
        node = self._node
        if node.dead or not node._isLeader() or not node.otherNodes:
            return
        node.hand_over.begin()
        deadline = node.clock() + HAND_OVER_S
        while node._isLeader() and node.clock() < deadline:
            if not self._round():
                return
