"""The Python in the README and the pages of the documentation runs, page by page from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jgmm
from jgmm.encoder.identity import Identity

ROOT = Path(__file__).parents[1]
# What a page takes for granted before its first block.
GIVEN = {
    "mixtures.md": """
        import jax, jax.numpy as jnp, numpy as np
        rng, key = np.random.default_rng(0), jax.random.key(0)
        x, w = rng.normal(size=(300, 3)).astype(np.float32), rng.integers(1, 3, 300)
        weights, means, covariances = [0.2, 0.3, 0.5], rng.normal(size=(3, 3)), [np.eye(3)] * 3
        first_batch, next_batch = rng.normal(size=(2, 200, 30)).astype(np.float32)
        wide, y, context = rng.normal(size=(300, 30)).astype(np.float32), x[:, :1], rng.normal(size=(300, 10))
        new_context, new_y = context[:4].astype(np.float32), y[:4]
    """,
    "interpolant.md": """
        import jax, jax.numpy as jnp, jgmm
        source = jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [1.0], "spherical")
        target = jgmm.GMM.from_parameters([0.4, 0.6], [[3.0, 0.0], [0.0, 3.0]], [0.5, 0.5], "spherical")
        key, t, n = jax.random.key(0), 0.3, 5
        x, x0, x1 = jnp.ones((5, 2)), jnp.zeros((5, 2)), jnp.ones((5, 2))
    """,
    "scaling.md": """
        import jax, jgmm, numpy as np, tensorstore
        jax.config.update("jax_num_cpu_devices", 8)
        x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "rows.zarr"}}
        tensorstore.open(spec, create=True, shape=x.shape, dtype=x.dtype).result().write(x).result()
    """,
    "products.md": """
        import jax, jax.numpy as jnp, jgmm, numpy as np
        from jgmm.encoder.identity import Identity
        rng, key = np.random.default_rng(0), jax.random.key(0)
        x = rng.normal(size=(300, 5)).astype(np.float32)
        codes = rng.normal(size=(60, 3072)).astype(np.float32)
        blocks = np.arange(3072).reshape(64, 48)
        fitted = jgmm.fit_product(0, codes, k=2, blocks=blocks, classes=4, max_iter=2).mixture
        jgmm.save("runs/cifar10-k50", jgmm.unnormalized(fitted, Identity(3072), (32, 32, 3)))
        z, z0 = jnp.asarray(codes[:2]), jnp.asarray(codes[2:4])
    """,
}


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks_of(page)]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with the run that pages load."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    gmm = jgmm.GMM.from_parameters([0.25] * 4, rng.normal(size=(4, 3072)), np.ones((4, 3072)), "diag")
    jgmm.save("runs/cifar10-k100", jgmm.normalize(jgmm.unnormalized(gmm, Identity(3072), (32, 32, 3)), "channel"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page, runs):
    if page.name == "pytorch.md":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    given = "\n".join(line.strip() for line in GIVEN.get(page.name, "").splitlines())
    script = runs / "page.py"
    script.write_text("\n".join([given, *blocks_of(page)]))
    ran = subprocess.run([sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]


def test_every_page_is_known_to_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in site
