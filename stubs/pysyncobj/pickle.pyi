from collections.abc import Callable
from typing import Any, BinaryIO

loads: Callable[[bytes], Any]
load: Callable[[BinaryIO], Any]

def dumps(obj: object, protocol: int | None = None) -> bytes: ...
