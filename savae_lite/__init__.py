"""Variational inference for PyTorch, from the ELBO to semi-amortized variational autoencoders.

Import from the module that holds the idea: ``from savae_lite.svi import svi``. Importing does nothing else.
"""
