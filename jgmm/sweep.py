"""`python -m jgmm.sweep`: fit many mixtures to the same data, compare them, keep the best."""

import time
from collections.abc import Sequence

from jgmm.commands import cli
from jgmm.commands.options import SweepOptions
from jgmm.errors import InputError, check
from jgmm.registry import CRITERIA


def main(args: Sequence[str] | None = None) -> None:
    """Parse, fit every combination, print the table as it grows, save the best."""
    options = cli.parse(SweepOptions, prog="python -m jgmm.sweep", args=args)
    options.check()

    import jax

    from jgmm.checkpoint.lock import locked

    cli.compile_once()
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    with locked(options.folder), jax.default_matmul_precision(options.precision):
        _run(options)


def _run(options: SweepOptions) -> None:
    from jgmm.checkpoint.journal import Mark
    from jgmm.commands import selection
    from jgmm.commands.codes import fit_encoder, say_what_varies, to_codes
    from jgmm.commands.finishing import Found, finish
    from jgmm.commands.inputs import check_data, check_free, prepare
    from jgmm.commands.progress import CompileClock
    from jgmm.em.rows import on_mesh
    from jgmm.figures import fits

    begun = time.perf_counter()
    folder, table = options.folder, options.folder / "sweep.csv"
    check(not table.exists(), f"{folder} already holds a sweep: choose another --out, or delete it first.")
    check_free(folder)
    data = prepare(options, max(options.k))
    check_data(options, data)
    if data.held_out is None:
        raise InputError("a sweep needs data held out of the fits: raise --holdout.")
    with CompileClock() as clock:
        encoder, spectrum = fit_encoder(options, data.train)
        train = to_codes(options, data.train, encoder, spectrum)
        held_out = to_codes(options, data.held_out, encoder, spectrum)
        say_what_varies(options, train, data.held_out)
        print(selection.HEADER)
        rows, best = [], None
        for row, state in selection.compare(options, train, held_out, clock):
            rows.append(row)
            print(row)
            selection.write_csv(table, rows)
            score = CRITERIA[options.criterion](row)
            if state is not None and (best is None or score > best[0]):
                best = (score, row, state)
        if best is None:
            raise InputError(f"every fit failed; {table} says why.")
        _, row, state = best
        picture = folder / "sweep.png"
        fits.comparison(picture, rows, (row.covariance_type, row.k), options.criterion)
        print(f"\nbest by {options.criterion}: {row.covariance_type} covariances, K={row.k}\n{table}\n{picture}")
        (folder / "best").mkdir(exist_ok=True)
        found = Found(state, state.gmm, Mark(), [])
        rows_of_best = on_mesh(train.values)
        finish(options.at(row.k, row.covariance_type), data, train, rows_of_best, found, clock, begun)


if __name__ == "__main__":
    cli.run(main)
