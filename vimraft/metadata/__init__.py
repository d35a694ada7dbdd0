"""The replicated log: its port, and the adapters behind it.

May live here: `port` (what everybody above uses), the adapters `memory_log` (tests) and `pysyncobj`
(the product), and what they share (`requests`, `subscriptions`). Knows `core` only.
"""
