"""Independent formulations that the tests compare the package with."""
