"""vimraft: virtual volumes pooled from the real volumes of several sites."""

__version__ = "0.2.0"
