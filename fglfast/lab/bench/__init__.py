"""How fast each part runs, and how near to what the machine can do. Knows no verb and no file of results."""
