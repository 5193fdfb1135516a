"""A variational autoencoder and a conditional WGAN-GP that share their decoder (f-VAEGAN-D2)."""
