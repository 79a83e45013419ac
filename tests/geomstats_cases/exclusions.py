"""The one place for tests of geomstats that are not run, or run to another tolerance, with reasons.

Each topic is named by the test classes it applies to. A name that is no test of the case is refused
(``autodata.data_for``), so nothing stale stays here.
"""

EXCLUDED = {
    "product": (
        ("not_belongs",),
        "ProductManifold of geomstats raises ShapeError on points of another shape",
    ),
    "copies": (
        ("not_belongs",),
        "NFoldManifold of geomstats fails in a reshape on points of another shape",
    ),
    "bundle": (
        ("integrability_tensor_derivative_vec",),
        "the case lifts vectors of the total space, which is right only where base and total "
        "space share their points; and the derivative of A is not implemented",
    ),
}

TOLERANCES = {}
