"""What a synthetic data set holds, seen from its files alone, whoever made it."""
