"""What measured the figures of the README."""

from fglfast.base.console import quiet_libraries

quiet_libraries()
