"""What every room stands on: errors, console, configuration, files, limits, ranks, untrusted input."""
