"""Every example in a docstring is run, and everything public has one."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest

import jgmm
from jgmm import interpolant

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jgmm.__path__, "jgmm.") if not module.name.endswith("__main__")
)


def with_examples():
    """The modules whose text has an example."""
    found = []
    for name in MODULES:
        source = importlib.util.find_spec(name).origin
        with open(source, encoding="utf-8") as file:
            if ">>>" in file.read():
                found.append(name)
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_are_true(name):
    globs = {}
    if name.startswith("jgmm.interpolant."):  # they go on from the example of the package
        for example in doctest.DocTestParser().get_examples(interpolant.__doc__):
            exec(compile(example.source, name, "single"), globs)
    with jax.numpy_rank_promotion("allow"):
        failed, tried = doctest.testmod(importlib.import_module(name), extraglobs=globs)
    assert tried > 0
    assert failed == 0


def public():
    members = []
    for package in (jgmm, interpolant):
        for name in package.__all__:
            member = getattr(package, name)
            if not inspect.ismodule(member):
                members.append(pytest.param(member, id=f"{package.__name__}.{name}"))
    return members


@pytest.mark.parametrize("member", public())
def test_everything_public_has_an_example(member):
    assert ">>>" in (inspect.getdoc(member) or "")
