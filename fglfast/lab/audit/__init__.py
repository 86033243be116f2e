"""What a run gives away: membership inference, inversion of embeddings, copies; and one page of it."""
