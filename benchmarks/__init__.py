"""What measured the figures of the README."""

from fglfast.console import quiet_libraries

quiet_libraries()
