"""Tensors of rank one: an architecture of which only the lift and its laws are written."""

import autograd.numpy as anp

from liftflow.architectures import Architecture


class RankOneTensors(Architecture):
    """φ(u, v, w) = u ⊗ v ⊗ w, with the laws |u|² − |v|² and |v|² − |w|²."""

    def __init__(self, n, m, k):
        super().__init__(n + m + k, (n, m, k), n_laws=2, block_shapes=[(n,), (m,), (k,)])

    def lift(self, theta):
        return anp.einsum("...i,...j,...k->...ijk", *self.unpack(theta))

    def conservation_laws(self, theta):
        u, v, w = (anp.sum(block**2, axis=-1) for block in self.unpack(theta))
        return anp.stack([u - v, v - w], axis=-1)
