"""How a generator is trained: from images, into a few-step student, or an embedding into it."""
