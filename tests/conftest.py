"""Settings of all suites: properties draw the same examples in every run, and a slow machine is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "p2pnodes",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("p2pnodes")
