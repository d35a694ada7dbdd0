"""What every part of the client stands on: one call of the API, and how a name gets into a path.

May live here: what `client_copies` and `client_moves` need of `client`, which is made of them.
"""

from abc import ABC, abstractmethod
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "DELETE"]


def part(name: str) -> str:
    """One path segment. An empty or dotted name would address another path: such names exist nowhere."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if set(name) <= {"."} and name else quoted or "%20"


class ClientPart(ABC):
    @abstractmethod
    def _call(
        self,
        method: Method,
        path: str,
        reply_type: type[T],
        *,
        body: msgspec.Struct | None = None,
        params: dict[str, str | int] | None = None,
        repeatable: bool = True,
    ) -> T: ...
