"""Instruments: audit, probe, tuning, bench, doctor. Only verbs and report import from here."""
