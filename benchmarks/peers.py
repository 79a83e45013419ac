"""Jobs that bench_waiting.py has done by other libraries, in a Python that has them."""

import itertools
import sys

import numpy as np
from worker import serve


def jax_flow(data: str, widths: list[int], t_end: float, rtol: float):
    """The gradient flow of mean cross-entropy by diffrax, compiled before it is timed."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    stored = np.load(data)
    inputs, labels = jnp.array(stored["inputs"]), jnp.array(stored["labels"].astype(int))
    cuts = np.cumsum([a * b for a, b in itertools.pairwise(widths)])[:-1]

    def loss(theta):
        values = inputs
        parts = jnp.split(theta, cuts)
        for number, (part, a, b) in enumerate(zip(parts, widths, widths[1:], strict=False)):
            values = values @ part.reshape(a, b)
            if number < len(parts) - 1:
                values = jax.nn.relu(values)
        logs = jax.nn.log_softmax(values)
        return -jnp.mean(logs[jnp.arange(labels.size), labels])

    term = diffrax.ODETerm(lambda t, theta, args: -jax.grad(loss)(theta))
    control = diffrax.PIDController(rtol=rtol, atol=rtol / 100)

    @jax.jit
    def solve(theta):
        return diffrax.diffeqsolve(
            term,
            diffrax.Tsit5(),
            0.0,
            t_end,
            None,
            theta,
            stepsize_controller=control,
            max_steps=100_000,
        )

    theta = jnp.array(stored["theta"])

    def tell(found):
        steps = int(found.stats["num_steps"])
        return {"end": np.asarray(found.ys[-1, ::97]).tolist(), "evaluations": 6 * steps + 1}

    return lambda: jax.block_until_ready(solve(theta)), tell


def torch_flow(data: str, widths: list[int], t_end: float, rtol: float):
    """The same by scipy's RK45, with gradients by PyTorch."""
    import torch
    from scipy.integrate import solve_ivp

    stored = np.load(data)
    inputs, labels = torch.tensor(stored["inputs"]), torch.tensor(stored["labels"].astype(np.int64))
    cuts = np.cumsum([a * b for a, b in itertools.pairwise(widths)])[:-1]

    def velocity(t, theta):
        parts = [
            torch.tensor(part.reshape(a, b), requires_grad=True)
            for part, a, b in zip(np.split(theta, cuts), widths, widths[1:], strict=False)
        ]
        values = inputs
        for part in parts[:-1]:
            values = torch.relu(values @ part)
        loss = torch.nn.functional.cross_entropy(values @ parts[-1], labels)
        grads = torch.autograd.grad(loss, parts)
        return -np.concatenate([grad.numpy().ravel() for grad in grads])

    torch.set_num_threads(1)

    def solve():
        return solve_ivp(velocity, (0.0, t_end), stored["theta"], rtol=rtol, atol=rtol / 100)

    def tell(found):
        return {"end": found.y[::97, -1].tolist(), "evaluations": found.nfev}

    return solve, tell


def jax_laws(widths: list[int]):
    """D − the rank of brackets of the fields ∇φ_i at a random point, by nested jvps."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    cuts = np.cumsum([a * b for a, b in itertools.pairwise(widths)])
    dim, cuts = int(cuts[-1]), cuts[:-1]

    def lift(theta):
        parts = jnp.split(theta, cuts)
        paths = parts[0].reshape(widths[0], widths[1])
        for part, a, b in zip(parts[1:], widths[1:], widths[2:], strict=False):
            paths = paths[..., None] * part.reshape(a, b)
        return paths.ravel()

    fields = jax.jacrev(lift)

    def brackets(first, second):
        """All brackets of the rows of two functions of θ."""

        def all_of(theta):
            a, b = first(theta), second(theta)
            moved_b = jax.vmap(lambda v: jax.jvp(second, (theta,), (v,))[1])(a)  # [a, b, D]
            moved_a = jax.vmap(lambda v: jax.jvp(first, (theta,), (v,))[1])(b)  # [b, a, D]
            return (moved_b - jnp.swapaxes(moved_a, 0, 1)).reshape(-1, dim)

        return all_of

    deeper = brackets(fields, fields)
    theta = jnp.array(np.random.default_rng(0).standard_normal(dim))

    def rank():
        known = fields(theta)
        span = int(jnp.linalg.matrix_rank(known))
        more = int(jnp.linalg.matrix_rank(jnp.vstack([known, deeper(theta)])))
        return max(span, more)

    return rank, lambda found: {"laws": dim - found}


if __name__ == "__main__":
    serve(globals(), sys.argv[1:])
