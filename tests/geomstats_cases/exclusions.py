"""The one place for tests of geomstats that are not run, or run to another tolerance, with reasons.

Each topic is named by the test classes it applies to. A name that is no test of the case is refused
(``autodata.data_for``), so nothing stale stays here.
"""

EXCLUDED = {
    "metric": (
        (
            "curvature_derivative_vec",
            "directional_curvature_derivative_vec",
            "injectivity_radius_vec",
        ),
        "not implemented: derivatives of the curvature, and injectivity radii, which are not known",
    ),
    "extrinsic": (
        (
            "christoffels_vec",
            "covariant_riemann_tensor_bianchi_identity",
            "covariant_riemann_tensor_is_interchange_symmetric",
            "covariant_riemann_tensor_is_skew_symmetric_1",
            "covariant_riemann_tensor_is_skew_symmetric_2",
            "covariant_riemann_tensor_vec",
            "inner_product_derivative_matrix_vec",
            "metric_matrix_is_spd",
            "riemann_tensor_vec",
        ),
        "points are extrinsic, so tensors have no components in them, and K is singular; they are "
        "refused, and run on charts",
    ),
    "image": (
        ("geodesic_equation_vec",),
        "lifted coordinates have no Christoffel symbols; invariant sets and charts have equations",
    ),
    "array": (
        (
            "covariant_riemann_tensor_bianchi_identity",
            "covariant_riemann_tensor_is_interchange_symmetric",
            "covariant_riemann_tensor_is_skew_symmetric_1",
            "covariant_riemann_tensor_is_skew_symmetric_2",
            "covariant_riemann_tensor_vec",
            "geodesic_equation_vec",
            "inner_coproduct_vec",
            "inner_product_derivative_matrix_vec",
            "riemann_tensor_vec",
        ),
        "geomstats has these for points that are vectors; they run on the flat form",
    ),
    "coordinates": (
        ("covariant_riemann_tensor_bianchi_identity",),
        "the case holds it to gs.atol, 1e-12 absolute, and no tolerance changes that, while the "
        "curvature is a product of solves; test_charts holds it to 1e-9 of its size",
    ),
    "comparison": (
        (
            "christoffels_random",
            "cometric_matrix_random",
            "covariant_riemann_tensor_random",
            "curvature_derivative_random",
            "directional_curvature_derivative_random",
            "injectivity_radius_random",
            "inner_coproduct_random",
            "inner_product_derivative_matrix_random",
            "metric_matrix_random",
            "ricci_tensor_random",
            "riemann_tensor_random",
        ),
        "not implemented for points that are arrays, by us or by the other metric",
    ),
    "quotient": (
        (
            "parallel_transport_bvp_random",
            "parallel_transport_ivp_random",
            "scalar_curvature_random",
        ),
        "QuotientMetric of geomstats has no parallel transport and no traces of its curvature",
    ),
    "shaped": (
        ("curvature_random", "directional_curvature_random", "normalize_random"),
        "the case hands the vectors of one space to the other as they are",
    ),
    "induced": (
        ("cometric_matrix_vec", "inner_coproduct_vec", "metric_matrix_vec"),
        "the metric of an invariant set is Euclidean: a matrix would be that of the ambient space",
    ),
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
