"""The lift of linear networks: the product of the layers."""

import geomstats.backend as gs
import numpy as np

from liftflow.architectures.balance import Layered, transpose
from liftflow.architectures.maps import SmoothMap
from liftflow.typing import Block, Covector, Lifted, LiftedTangent, Tangent, Theta


class MatrixProduct(SmoothMap):
    """The product U_L ⋯ U_1 of the layers of a network."""

    def __init__(self, network: Layered) -> None:
        self.network, self.name = network, f"the lift of {type(network).__name__}"
        self._set_up(network.dim, network.lifted_shape, network.block_shapes)

    def value(self, theta: Theta) -> Lifted:
        return self._prefixes(self.network._layers(theta))[-1]

    @staticmethod
    def _prefixes(layers: list[Block]) -> list[Block]:
        """Products U_i ⋯ U_1 for i = 1, …, L."""
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(layer @ products[-1])
        return products

    @staticmethod
    def _suffixes(layers: list[Block]) -> list[Block]:
        """Products U_L ⋯ U_i for i = 1, …, L."""
        products = [layers[-1]]
        for layer in layers[-2::-1]:
            products.append(products[-1] @ layer)
        return products[::-1]

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        layers, velocities = self.network._layers(theta), self.network._velocities(tangent)
        return self._moving_prefixes(layers, velocities)[-1][1]

    @staticmethod
    def _moving_prefixes(layers: list[Block], velocities: list[Block]) -> list[tuple[Block, Block]]:
        """Products U_i ⋯ U_1 with their velocities, for i = 1, …, L."""
        products = [(layers[0], velocities[0])]
        for layer, velocity in zip(layers[1:], velocities[1:], strict=True):
            product, speed = products[-1]
            speed = gs.matmul(velocity, product) + gs.matmul(layer, speed)
            products.append((gs.matmul(layer, product), speed))
        return products

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        layers = self.network._layers(theta)
        speeds_a = self.network._velocities(tangent_a)
        speeds_b = self.network._velocities(tangent_b)
        product, a, b, both = layers[0], speeds_a[0], speeds_b[0], gs.zeros_like(layers[0])
        for layer, own_a, own_b in zip(layers[1:], speeds_a[1:], speeds_b[1:], strict=True):
            both = gs.matmul(layer, both) + gs.matmul(own_a, b) + gs.matmul(own_b, a)
            a = gs.matmul(own_a, product) + gs.matmul(layer, a)
            b = gs.matmul(own_b, product) + gs.matmul(layer, b)
            product = gs.matmul(layer, product)
        return both

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        layers = self.network._layers(theta)
        form = covector
        prefixes, suffixes = self._prefixes(layers), self._suffixes(layers)
        lead = np.broadcast_shapes(form.shape[:-2], layers[0].shape[:-2])
        pulled = []
        for i in range(len(layers)):
            own = form if i + 1 == len(layers) else transpose(suffixes[i + 1]) @ form
            own = own if i == 0 else own @ transpose(prefixes[i - 1])
            shape = (*lead, *own.shape[-2:])
            pulled.append(own if own.shape == shape else gs.broadcast_to(own, shape))
        return self.network._pull_layers(pulled)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        theta, tangent = gs.broadcast_arrays(theta, tangent)
        layers, velocities = self.network._layers(theta), self.network._velocities(tangent)
        form = covector
        lead = np.broadcast_shapes(form.shape[:-2], theta.shape[:-1])
        turned = [[transpose(each) for each in part[::-1]] for part in (layers, velocities)]
        before = [None, *self._moving_prefixes(layers, velocities)[:-1]]
        after = [None, *self._moving_prefixes(*turned)[:-1]][::-1]
        pulled = []
        for left, right in zip(after, before, strict=True):
            terms = []
            if left is not None:  # (U_L ⋯ U_{i+1})ᵀ moves
                own = gs.matmul(left[1], form)
                terms.append(own if right is None else gs.matmul(own, transpose(right[0])))
            if right is not None:  # (U_{i−1} ⋯ U_1)ᵀ moves
                own = gs.matmul(form, transpose(right[1]))
                terms.append(own if left is None else gs.matmul(left[0], own))
            pulled.append(gs.broadcast_to(sum(terms), (*lead, *terms[0].shape[-2:])))
        return self.network._pull_layers(pulled)
