"""What the wheel holds. The configs, conf/ in a checkout, are installed as the folder conf of the package pipeline."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["engine*", "pipeline*", "experiments*"]), "pipeline.conf"],
    package_dir={"pipeline.conf": "conf"},
    package_data={"": ["*.yaml", "*.j2", "*.pyi", "py.typed"], "pipeline.conf": ["**/*.yaml"]},
)
