"""Matrices of second derivatives as linear operators: the Hessian and the Gauss-Newton matrix."""
