"""How many losses of each volume the lives of one process have told, kept for the next life.

May live here: one small file for each role. Keeps INV-3 over a restart of the process, after which the page
cache is as it was: peers compare the count that they are told with the one that they know. If it began anew
at 0, they would take a restart for a loss, and would never hear of one that came just before it. The file
counts for one boot of the host: after another one the boot in the same description tells them.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

MAX_FILE_BYTES = 16 << 20


class LossBook:
    def __init__(
        self, path: Path, boot: str, log: Callable[..., None] = lambda _event, **_fields: None
    ) -> None:
        self._path = path
        self._boot = boot
        self._log = log
        self._lock = threading.Lock()
        self._by_volume = self._load()

    def known(self, volume: str) -> int:
        return self._by_volume.get(volume, 0)

    def note(self, volume: str, losses: int) -> int:
        """Before anybody is told; returns `losses`. A disk that refuses it keeps nobody from being told."""
        if losses <= self._by_volume.get(volume, 0):
            return losses
        with self._lock:
            self._by_volume[volume] = max(losses, self._by_volume.get(volume, 0))
            part = self._path.with_name(self._path.name + ".part")
            try:
                part.write_text(json.dumps({"boot": self._boot, "losses": self._by_volume}), encoding="utf-8")
                os.replace(part, self._path)
            except OSError as error:
                self._log("losses.not_kept", volume=volume, error=str(error))
        return losses

    def forget(self, volume: str) -> None:
        """It is gone; the file forgets it with the next note."""
        with self._lock:
            self._by_volume.pop(volume, None)

    def _load(self) -> dict[str, int]:
        try:
            with self._path.open(encoding="utf-8") as file:
                found = json.loads(file.read(MAX_FILE_BYTES))
            if found["boot"] != self._boot:
                return {}
            return {str(volume): int(losses) for volume, losses in found["losses"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._log("losses.not_read", error=str(error))
            return {}
