"""One function a verb. Each imports its stage inside: `--help` never loads torch."""
