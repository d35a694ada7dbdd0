"""nbdkit plugin: the store of a site, what owners at other sites read and write segments through.

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
callbacks.use_role("store")
