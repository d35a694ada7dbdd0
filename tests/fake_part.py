"""What the parts of `fake_site.FakeService` need of it: declared here, made there."""

from abc import ABC, abstractmethod
from typing import Any

from vimraft.api import schema as s


class FakePart(ABC):
    reply: s.StatusReply

    @abstractmethod
    def _note(self, what: str, body: Any, request_id: str | None) -> None: ...

    @abstractmethod
    def _found(self, name: str) -> s.VolumeStatus: ...

    @abstractmethod
    def _volume_reply(self, found: s.VolumeStatus, *, planned: bool = False) -> s.VolumeReply: ...

    @abstractmethod
    def _done(self, what: str, body: Any, request_id: str | None) -> s.DoneReply: ...
