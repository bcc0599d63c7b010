"""The package on a station: a wheelhouse built on the control node, a release installed from it."""
