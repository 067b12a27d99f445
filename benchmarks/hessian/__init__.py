"""Hessian eigenvalues and densities of networks, beside the packages that compute them: ``make bench-hessian``."""
