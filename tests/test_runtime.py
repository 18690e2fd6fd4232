from importlib.metadata import PackageNotFoundError, version

import pytest

from topwork.runtime import find_version


@pytest.mark.parametrize("package", ["topwork", "keras", "openvino", "pillow", "jax"])
def test_finds_the_version_that_the_standard_library_finds(package):
    assert find_version(package) == version(package)


def test_a_package_that_is_not_there():
    with pytest.raises(PackageNotFoundError):
        find_version("no-such-package-anywhere")
