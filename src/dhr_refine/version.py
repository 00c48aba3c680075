"""The version of the package, for those of its parts that write it down."""

__version__ = "0.1.0"
