"""`kythera machine`: all its commands, put together."""

from kythera.cli import machine_core
from kythera.cli.machine import machine

__all__ = ["machine", "machine_core"]
