"""Numbers of conservation laws of linear networks, by formulas that no code under test uses."""

from itertools import pairwise, product


def known_laws(widths):
    """Count the laws of a linear network at a generic point.

    Each hidden layer of width r has the r(r+1)/2 entries of S, of which k(2r+1−k)/2 are
    independent, k = min(r, r₋ + r₊) (Marcotte et al. 2023). Where a part of three or more layers
    leads from a width of 1 to a width of 1, its product is one function of its D' parameters: it
    has D' − 1 laws, more than those of its hidden layers.
    """
    total = 0
    ones = [i for i, width in enumerate(widths) if width == 1]
    scalar = [(i, j) for i, j in pairwise(ones) if j - i > 1]
    for i in range(1, len(widths) - 1):
        if not any(first < i < last for first, last in scalar):
            r = widths[i]
            k = min(r, widths[i - 1] + widths[i + 1])
            total += k * (2 * r + 1 - k) // 2
    for first, last in scalar:
        part = widths[first : last + 1]
        total += sum(a * b for a, b in pairwise(part)) - 1
    return total


def small_widths(depth):
    """List all widths from 1 to 4 of a depth, one of each pair of a network and its transpose."""
    return [w for w in product(range(1, 5), repeat=depth + 1) if w <= w[::-1]]
