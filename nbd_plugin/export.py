"""nbdkit plugin: the export of a site, what clients attach to (and other sites forward to).

Run by nbdkit as a script (see vimraft.data.launch); nbdkit looks its callbacks up in this module.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from nbd_plugin import bootstrap

bootstrap.prepare()

from nbd_plugin import callbacks  # noqa: E402
from nbd_plugin.callbacks import *  # noqa: E402, F403

API_VERSION = 2
callbacks.use_role("export")
