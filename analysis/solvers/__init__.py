"""Eigenvalues, densities and moments of symmetric operators that are known by their products."""
