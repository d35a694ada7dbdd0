"""PySyncObj without its encryption by password, which no vimraft uses (tls.py does that work).

May live here: the empty module that takes the place of `pysyncobj.encryptor`. That one imports the package
`cryptography`, which is a sixth of the time that a manager takes to start. Imported before anything of
PySyncObj; whoever has imported PySyncObj before keeps what he has.
"""

import sys
import types
from typing import Final

NAME: Final = "pysyncobj.encryptor"


def install() -> None:
    """A configuration with a password is refused by PySyncObj then, as where `cryptography` is missing."""
    stand_in = types.ModuleType(NAME)
    stand_in.__dict__.update(HAS_CRYPTO=False, getEncryptor=None)
    sys.modules.setdefault(NAME, stand_in)
