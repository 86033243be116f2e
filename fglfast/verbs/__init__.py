"""One function a verb. Each imports its stage inside: `--help` never loads torch.

What takes seconds to import is imported after what was given has been read: who is wrong about that hears it at once.
"""
