"""How fast each part runs, and how near to what the machine can do."""
