"""Makes the interpreter that nbdkit embeds find vimraft. Imported first, and imports nothing of vimraft.

nbdkit starts the interpreter of the first python3 on PATH; one outside of /usr would lack Debian's libnbd.
"""

import os
import site


def prepare() -> None:
    if not os.__file__.startswith("/usr/lib/"):
        raise ImportError(
            f"nbdkit embeds the interpreter of {os.__file__}, not Debian's; "
            "start it with PATH=/usr/sbin:/usr/bin"
        )
    for directory in os.environ.get("VIMRAFT_SITE_PACKAGES", "").split(":"):
        if directory:
            site.addsitedir(directory)
