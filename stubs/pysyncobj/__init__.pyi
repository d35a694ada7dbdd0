from .syncobj import FAIL_REASON as FAIL_REASON
from .syncobj import SyncObj as SyncObj
from .syncobj import SyncObjConf as SyncObjConf
from .syncobj import SyncObjException as SyncObjException
from .syncobj import replicated as replicated
