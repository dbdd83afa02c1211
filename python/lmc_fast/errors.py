"""The package's own exception and warning types."""


class SpecMismatchError(ValueError):
    """A permutation spec and the tensors it is applied to disagree in names, ranks or sizes."""


class LmcWarning(UserWarning):
    """Category of every warning this package issues."""


class DataFileError(ValueError):
    """A data file is missing, truncated, corrupt or not what its name says."""
