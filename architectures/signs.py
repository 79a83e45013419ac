"""Signs that a lift forgets: one for every channel."""

import numpy as np

from liftflow.architectures.anchors import SpanningTree
from liftflow.architectures.channels import ChannelGraph
from liftflow.typing import OneTheta

MOST_SIGNS = 6
"""Most signs forgotten by φ, all of whose choices are tried for the shortest geodesic."""


def follow_signs(graph: ChannelGraph, theta: OneTheta, near: OneTheta) -> OneTheta:
    """Flip channels so that every edge has the sign of ``near``, but those that vanish.

    Where all paths through a channel vanish, either all its in-edges or all its out-edges change
    sign, and φ does not say which; the edges that are not small do. A spanning tree of the
    strongest ones, grounded at the inputs and outputs, decides for every channel.

    Returns
    -------
    theta : OneTheta
        With the same φ and the same laws.
    """
    overlap = theta * near
    if not np.any(overlap < 0):
        return theta
    turned = _turned(graph, graph.tree, overlap)
    if np.all(turned * overlap > 0):  # no edge contradicts another, so that any tree will do
        return theta * turned
    overlap = np.where(overlap == 0, np.nextafter(0, 1), overlap)  # all may be edges of a tree
    return theta * _turned(graph, SpanningTree.strongest(graph, overlap), overlap)


def _turned(graph: ChannelGraph, tree: SpanningTree, overlap: OneTheta) -> OneTheta:
    """What the signs of channels that make a tree positive do to each edge."""
    own = np.append(tree.signs_along(overlap), 1.0)
    return own[graph.tails] * own[graph.heads]


def turn_signs(graph: ChannelGraph, theta: OneTheta, near: OneTheta) -> OneTheta:
    """Flip channels while that brings θ closer; the best where no two channels share an edge."""
    signs, overlap = np.ones(graph.n_channels + 1), theta * near
    parts = list(zip(graph.stages, graph.into, graph.out_of, strict=True))
    flipped = True
    while flipped:
        flipped = False
        for channels, into, out_of in parts:
            pull = np.bincount(
                graph.place[np.append(graph.heads[into], graph.tails[out_of])],
                np.append(
                    overlap[into] * signs[graph.tails[into]],
                    overlap[out_of] * signs[graph.heads[out_of]],
                ),
            )
            wrong = channels[signs[channels] * pull < 0]
            signs[wrong] *= -1
            flipped |= wrong.size > 0
    return theta * signs[graph.heads] * signs[graph.tails]
