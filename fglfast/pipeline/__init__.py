"""One-shot FGL: the stages in order, and the record of a run."""
