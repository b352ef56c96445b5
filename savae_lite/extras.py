"""Packages that only a part of the library needs: one that is missing is named with the extra that brings it.

The extras stand in pyproject.toml. Nothing here installs or imports a package.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the imports of what the extra ``name`` brings: ModuleNotFoundError says how to install it.

    >>> with extra("plots"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    ModuleNotFoundError: savae_lite needs no_such_package; it is not installed. Run: pip install "savae-lite[plots]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ModuleNotFoundError(
            f'savae_lite needs {package}; it is not installed. Run: pip install "savae-lite[{name}]"', name=package
        ) from error
