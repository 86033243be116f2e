"""HTML pages, each beside its template, drawn from a record alone."""
