"""Training of the learned policies: rewards from the decoder that they choose for."""
