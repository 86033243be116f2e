"""Which steps, guidance and images per class: draw, train and judge each choice, keep what a budget of seconds buys."""
