"""Mixtures to the files of other libraries and back."""

import zipfile

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import jgmm
from jgmm.convert import read, write
from jgmm.convert.__main__ import main
from jgmm.convert.tensors import read_tensors, write_tensors
from jgmm.convert.zuko import from_state_dict, to_state_dict
from jgmm.covariance.full import Full
from jgmm.encoder.identity import Identity
from jgmm.encoder.pca import fit_pca
from jgmm.errors import InputError

FAMILIES = ["full", "tied", "diag", "spherical"]
SHAPE = (4, 6, 3)


def mixture(family, d=4, k=3):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(k, d, d)) / 3 + np.eye(d)
    dense = root @ root.swapaxes(1, 2)
    covariances = {
        "full": dense,
        "tied": dense[0],
        "diag": np.einsum("kdd->kd", dense),
        "spherical": dense[:, 0, 0],
    }
    return jgmm.GMM.from_parameters([0.2, 0.3, 0.5], rng.normal(size=(k, d)), covariances[family], family)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_comes_back_from_scikit_learn_bit_by_bit(family, tmp_path, x64):
    gmm = mixture(family)
    write(tmp_path / "a.pkl", gmm)
    estimator = joblib.load(tmp_path / "a.pkl")
    assert type(estimator) is GaussianMixture
    x = load_iris().data
    np.testing.assert_allclose(estimator.score_samples(x), gmm.log_prob(x), rtol=1e-10)
    joblib.dump(estimator, tmp_path / "b.pkl")
    assert_equal(read(tmp_path / "b.pkl"), gmm)
    joblib.dump(estimator.fit(x), tmp_path / "c.pkl")
    np.testing.assert_allclose(read(tmp_path / "c.pkl").log_prob(x), estimator.score_samples(x), rtol=1e-8)


@pytest.mark.parametrize("ending", ["npz", "safetensors", "skops", "pt", "joblib", "folder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_file_gives_the_mixture_back(family, ending, tmp_path):
    if ending in ("skops", "safetensors"):
        pytest.importorskip(ending, reason=f"{ending} is not installed")
    gmm = mixture(family)
    path = tmp_path / f"a.{ending}" if ending != "folder" else tmp_path / "run"
    assert write(path, gmm) == [path]
    found = read(path)
    x = load_iris().data.astype(np.float32)
    found = found if isinstance(found, jgmm.GMM) else found()
    np.testing.assert_allclose(found.log_prob(x), gmm.log_prob(x), rtol=1e-4)
    with pytest.raises(InputError, match="exists|holds"):
        write(path, gmm)


def test_families_that_others_do_not_have(tmp_path):
    gmm = jgmm.fit_em(0, load_iris().data, k=2, covariance_type="tied-diag").gmm
    write(tmp_path / "a.pkl", gmm)
    x = load_iris().data.astype(np.float32)
    np.testing.assert_allclose(joblib.load(tmp_path / "a.pkl").score_samples(x), gmm.log_prob(x), rtol=1e-4)
    assert read(tmp_path / "a.pkl").covariance.name == "tied"
    with pytest.raises(InputError, match="activation|network|tied-low-rank|zuko"):
        write(tmp_path / "a.pt", jgmm.fit_em(0, x, k=2, covariance_type="tied-low-rank", max_iter=1).gmm)


def reference_files(folder, family, n_pca, pixels):
    """What SourceFM's script writes, from images in [-1, 1]."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    pca = PCA(n_pca, random_state=0).fit(rows) if n_pca else None
    codes = rows if pca is None else pca.transform(rows)
    estimator = GaussianMixture(3, covariance_type=family, random_state=0).fit(codes)
    name = folder / f"cifar10_gmm3_pca{n_pca or rows.shape[1]}_{family}"
    joblib.dump({"gmm": estimator, "pca": pca}, f"{name}.pkl")
    draws = estimator.sample(4000)[0]
    draws = (draws if pca is None else pca.inverse_transform(draws)).reshape(-1, *pixels.shape[3:], *pixels.shape[1:3])
    mean, std = draws.mean(axis=0, keepdims=True), draws.std(axis=0, keepdims=True)
    write_tensors(folder / f"{name.name}_stats.pt", {"mean": mean.astype(np.float32), "std": std.astype(np.float32)})
    return estimator, pca, mean, std, f"{name}.pkl"


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5, *SHAPE))
    return np.tanh(base[rng.integers(5, size=800)] + 0.5 * rng.normal(size=(800, *SHAPE)))


@pytest.mark.parametrize(("family", "n_pca"), [("full", 0), ("diag", 0), ("tied", 0), ("spherical", 0), ("full", 10)])
def test_files_of_the_reference_become_runs_that_draw_the_same(family, n_pca, pixels, tmp_path, capsys):
    estimator, pca, mean, std, path = reference_files(tmp_path, family, n_pca, pixels)
    main([path, str(tmp_path / "run")])
    source = jgmm.load(tmp_path / "run")
    assert source.shape == SHAPE
    # Its sampler: draws, channel by channel less the mean of means, over the mean of deviations.
    draws = estimator.sample(4000)[0]
    draws = draws if pca is None else pca.inverse_transform(draws)
    mean, std = (a.mean(axis=(2, 3), keepdims=True) for a in (mean, std))
    expected = (draws.reshape(-1, 3, 4, 6) - mean) / std
    found = np.asarray(source.sample(jax.random.key(0), 4000)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.12)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), atol=0.12)
    if pca is None:
        x0 = np.asarray(expected[:50].transpose(0, 2, 3, 1), np.float32)
        volume = np.log(std).sum() * 24
        np.testing.assert_allclose(source.log_prob(x0), estimator.score_samples(draws[:50]) + volume, rtol=1e-3)


def test_a_source_becomes_files_of_the_reference(pixels, tmp_path):
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    pca, _ = fit_pca(rows, 12)
    gmm = jgmm.fit_em(0, pca.encode(jnp.asarray(rows)), k=2, covariance_type="diag").gmm
    source = jgmm.normalize(jgmm.unnormalized(gmm, pca, SHAPE), "channel")
    path = tmp_path / "cifar10_gmm2_pca72_full.pkl"
    assert [p.name for p in write(path, source)] == [path.name, "cifar10_gmm2_pca72_full_stats.pt"]
    content, statistics = joblib.load(path), read_tensors(tmp_path / "cifar10_gmm2_pca72_full_stats.pt")
    assert content["pca"] is None
    assert statistics["mean"].shape == statistics["std"].shape == (1, 3, 4, 6)
    x0 = np.asarray(source.sample(jax.random.key(0), 100)).transpose(0, 3, 1, 2)
    x = (x0 * statistics["std"] + statistics["mean"]).reshape(100, -1)
    volume = np.log(statistics["std"]).sum()
    expected = source.log_prob(x0.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(content["gmm"].score_samples(x) + volume, expected, rtol=1e-3, atol=0.1)
    again = read(path)
    np.testing.assert_allclose(again.log_prob(x0.transpose(0, 2, 3, 1)), expected, rtol=1e-3, atol=0.1)


def test_a_source_of_pixels_comes_back_bit_by_bit(pixels, tmp_path, x64):
    gmm = jgmm.fit_em(0, pixels.reshape(len(pixels), -1), k=2, covariance_type="full", encoder="identity").gmm
    source = jgmm.normalize(jgmm.unnormalized(gmm, Identity(72), SHAPE), "channel")
    write(tmp_path / "a.pkl", source)
    assert_equal(read(tmp_path / "a.pkl").gmm, gmm)


def densities_of_zuko(state, x, family, epsilon=1e-6):
    """log p(x) as zuko's formulas say."""
    logits, loc, diagonal, *rest = (state[f"phi.{i}"].astype(np.float64) for i in range(len(state)))
    (k, d), out = loc.shape, []
    for i in range(k):
        scale = np.diag(np.broadcast_to(np.exp(diagonal[i % len(diagonal)]) + epsilon, d))
        if rest:
            scale[np.tril_indices(d, -1)] = rest[0][i % len(diagonal)]
        y = np.linalg.solve(scale, (x - loc[i]).T)
        out.append(-0.5 * (y**2).sum(axis=0) - np.log(np.diag(scale)).sum() - d / 2 * np.log(2 * np.pi))
    return np.asarray(jax.nn.logsumexp(jax.nn.log_softmax(logits)[:, None] + np.array(out), axis=0))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["full", "diagonal", "spherical"])
def test_state_dicts_of_zuko(family, tied, tmp_path):
    rng, k, d = np.random.default_rng(0), 3, 4
    rows, x = 1 if tied else k, rng.normal(size=(20, d)).astype(np.float32)
    shapes = [(k,), (k, d), (rows, 1 if family == "spherical" else d)] + [(rows, d * (d - 1) // 2)] * (family == "full")
    state = {f"phi.{i}": rng.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    write_tensors(tmp_path / "a.pt", state)
    model = read(tmp_path / "a.pt")
    np.testing.assert_allclose(model().log_prob(x), densities_of_zuko(state, x, family), rtol=1e-3)
    back = to_state_dict(model)
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("tied", [False, True])
def test_conditional_state_dicts_of_zuko(tied, tmp_path):
    rng, k, d, c = np.random.default_rng(0), 2, 3, 5
    rows = 1 if tied else k
    sizes, total = [c, 8, 6], k + k * d + rows * (d + 3)
    state = {}
    for i, (m, n) in enumerate(zip(sizes, [*sizes[1:], total], strict=True)):
        state[f"hyper.{2 * i}.weight"] = rng.normal(size=(n, m)).astype(np.float32) / 3
        state[f"hyper.{2 * i}.bias"] = rng.normal(size=n).astype(np.float32) / 3
    model = from_state_dict(state, features=d, components=k, tied=tied)
    context, x = rng.normal(size=c).astype(np.float32), rng.normal(size=(10, d)).astype(np.float32)
    h = context
    for i in range(3):
        h = state[f"hyper.{2 * i}.weight"] @ (h if i == 0 else np.maximum(h, 0)) + state[f"hyper.{2 * i}.bias"]
    parts = np.split(h, np.cumsum([k, k * d, rows * d]))
    phi = {
        f"phi.{i}": p.reshape(s)
        for i, (p, s) in enumerate(zip(parts, [(k,), (k, d), (rows, d), (rows, 3)], strict=True))
    }
    np.testing.assert_allclose(model(context).log_prob(x), densities_of_zuko(phi, x, "full"), rtol=1e-3)
    for name, array in to_state_dict(model).items():
        np.testing.assert_array_equal(state[name], array)
    with pytest.raises(InputError, match="does not say"):
        from_state_dict(state)
    with pytest.raises(InputError, match="outputs"):
        from_state_dict(state, features=d + 1, components=k)
    write(tmp_path / "a.pt", jgmm.ConditionalGMM(2, 1, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="without an encoder"):
        write(tmp_path / "a.npz", model)


@pytest.mark.parametrize(
    "change",
    [
        {"phi.0": np.zeros(4, np.float32)},
        {"phi.2": np.zeros((2, 4), np.float32)},
        {"phi.2": np.zeros((3, 3), np.float32)},
        {"phi.1": np.zeros(3, np.float32)},
        {"phi.1": np.full((3, 4), np.nan, np.float32)},
        {"phi.1": np.zeros((3, 4), np.int64)},
    ],
)
def test_states_that_do_not_fit_are_refused(change):
    state = {"phi.0": np.zeros(3, np.float32), "phi.1": np.ones((3, 4), np.float32)}
    state |= {"phi.2": np.zeros((3, 4), np.float32), "phi.3": np.zeros((3, 6), np.float32)}
    assert from_state_dict({"epoch": 3, "state_dict": state})().k == 3
    with pytest.raises(InputError):
        from_state_dict(state | change)


def test_layers_that_do_not_fit_are_refused():
    state = {f"hyper.{i}.weight": np.zeros((4, 4), np.float32) for i in (0, 2)}
    for broken in (state, state | {"hyper.0.bias": np.zeros(4, np.float32), "hyper.2.bias": np.zeros(3, np.float32)}):
        with pytest.raises(InputError, match="follow each other"):
            from_state_dict(broken, features=1, components=1)
    with pytest.raises(InputError, match="expected a state_dict"):
        from_state_dict({})


def test_one_feature_has_nothing_below_the_diagonal():
    gmm = mixture("full", d=1)
    state = to_state_dict(jgmm.ConditionalGMM.of(gmm))
    assert state["phi.3"].shape == (3, 0)
    np.testing.assert_allclose(from_state_dict(state)().log_prob([[0.3]]), gmm.log_prob([[0.3]]), rtol=1e-5)


def test_mixtures_of_many_decades_come_back_in_float32(tmp_path):
    """Σ of eight decades, which is not positive definite once it is rounded to float32."""
    rng, d = np.random.default_rng(0), 12
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    root = np.linalg.qr((turn * np.logspace(0, -4, d)) @ turn.T)[1].T
    root = (root * np.sign(np.diag(root))[None]).astype(np.float32)
    gmm = jgmm.GMM(jnp.zeros(1), jnp.zeros((1, d)), Full(jnp.asarray(root[None])))
    x = np.asarray(gmm.sample(jax.random.key(0), 50))
    for ending in ("pkl", "npz"):
        write(tmp_path / f"a.{ending}", gmm)
        np.testing.assert_allclose(read(tmp_path / f"a.{ending}").log_prob(x), gmm.log_prob(x), rtol=1e-2)


def test_tensors_of_every_type(tmp_path):
    types = (np.float64, np.float16, jnp.bfloat16, np.int64, bool)
    arrays = {str(t): np.arange(6).reshape(2, 3).astype(t) for t in types}
    arrays["empty"], arrays["scalar"] = np.zeros((0, 3), np.float32), np.array(2.5)
    write_tensors(tmp_path / "a.pt", arrays)
    for name, array in read_tensors(tmp_path / "a.pt").items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    with pytest.raises(InputError, match="PyTorch does not have"):
        write_tensors(tmp_path / "b.pt", {"x": np.zeros(2, np.complex64)})


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", b"\x80\x02cos\nsystem\n(U\x04trueR.")
    joblib.dump([1, 2], tmp_path / "c.pkl")
    joblib.dump({"gmm": GaussianMixture(2), "pca": None}, tmp_path / "d.pkl")
    np.savez(tmp_path / "e.npz", means=np.zeros((2, 2)))
    np.savez(tmp_path / "f.npz", weights=np.array([object()]))
    (tmp_path / "g.txt").write_text("")
    np.save(tmp_path / "l.npy", np.zeros(3))
    (tmp_path / "l.npy").rename(tmp_path / "l.npz")
    (tmp_path / "m.npz").write_bytes((tmp_path / "e.npz").read_bytes()[:-40])
    joblib.dump(GaussianMixture(2), tmp_path / "h.pkl")
    messages = {
        "a.pt": "no file of tensors of PyTorch",
        "b.pt": "holds os.system",
        "c.pkl": "holds a list",
        "d.pkl": "expected a fitted GaussianMixture",
        "e.npz": "has no weights",
        "f.npz": "no .npz file of numbers",
        "l.npz": "no .npz file",
        "m.npz": "no .npz file",
        "g.txt": "expected a folder or a file",
        "h.pkl": "expected a fitted GaussianMixture",
        "i.pkl": "does not exist",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
    estimator = GaussianMixture(2).fit(load_digits().data[:, :12])
    joblib.dump({"gmm": estimator, "pca": None}, tmp_path / "j.pkl")
    with pytest.raises(InputError, match="does not have 12 features"):
        read(tmp_path / "j.pkl", shape=(2, 2, 2))
    assert read(tmp_path / "j.pkl").shape == (2, 2, 3)
    with pytest.raises(InputError, match="statistics .* do not exist"):
        read(tmp_path / "j.pkl", statistics=tmp_path / "none.pt")
    with pytest.raises(InputError, match="neither a name of a folder"):
        write(tmp_path / "k.safetensor", mixture("diag"))
    with pytest.raises(InputError, match="unknown option"):
        read(tmp_path / "j.pkl", nonsense=1)
    with pytest.raises(InputError, match="source of images"):
        write(tmp_path / "k.pkl", jgmm.unnormalized(mixture("diag"), Identity(4), (4,)))
