"""What is wrong with a project, for whoever typed `kythera deploy`."""

from kythera.model.errors import KytheraError


class ProjectError(KytheraError):
    """The project's configuration cannot be deployed; the message names the key and the file."""
