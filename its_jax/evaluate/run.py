"""Evaluates work folders: measures their samples, and writes a table."""

import collections
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.evaluate import aggregate, missing_scores, references, report, resynthesis, selection, table_name
from its_jax.evaluate.aggregate import References
from its_jax.evaluate.measures import Measure, read_item
from its_jax.evaluate.report import Row
from its_jax.media import images
from its_jax.runtime import cache, hardware
from its_jax.scoring import registry
from its_jax.scoring.item import Item
from its_jax.storage import files, samples
from its_jax.storage.samples import Sample, Samples

OUT = "evaluation"  # the folder for the table in a work folder
_SHOWN_FAULTS = 5  # in an error message; the JSON file of the table has all


def run(
    workdirs: Sequence[str],
    *,
    by: str = "",
    out: Path | None = None,
    models: Mapping[str, str] | None = None,
    compare_with: Mapping[str, str] | None = None,
    statistics: Mapping[str, str] | None = None,
    fad_features: str = "clap",
    extra: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
) -> str:
    """Measures samples, and writes a table of their scores.

    Args:
      by: a setting; each of its values gets a row.
      out: a folder for the table; by default `OUT` in the first work folder.
      models: `clip`, `clap` -> source; "" for the paper's model, or the embedded one for samples of embedded models.
      compare_with: `FID`, `FAD` -> a folder or .npz, "" for none.
      statistics: `FID`, `FAD` -> an .npz for the statistics of what samples are compared with, "" for none.
      fad_features: `clap` or `vggish`.
      extra: any of `griffin_lim` and `round_trip`.
      shard: index and count; the samples of each folder are divided among this many processes.

    Returns:
      the table as text; "" if other shards are not finished.

    Raises:
      UserError: something cannot be read or written, or is not available. All other work folders and samples are
        measured, and are in the table.
    """
    compare_with = compare_with or {}
    folders = list(dict.fromkeys(map(files.to_path, workdirs)))
    finished, faults = _open_folders(folders, by)
    _warn_about_canvases(finished)
    cache.keep_programs()
    image_models = (sample.record["image"]["model"] for found in finished.values() for sample in found.values())
    clip, clap = selection.load_scorers(models or {}, embedded=registry.all_tiny(image_models))
    measures = selection.select_measures(clip, clap, compare_with, fad_features, extra)
    compared = selection.load_references(clap, compare_with, fad_features)
    for name, path in (statistics or {}).items():
        if path and name in compared:
            references.write_statistics(Path(path), compared[name][1])
    rows, further_faults, is_complete = _evaluate(finished, _labels(folders), measures, compared, by, shard)
    if not is_complete:
        logging.info("the last shard to finish writes the table")
        return ""
    faults += [*further_faults, *(f"{row.name}: {fault}" for row in rows for fault in row.faults)]
    first_folder, first = next(iter(finished.items()))
    arguments = table_name.table_arguments(
        folders, by=by, models=models, compare_with=compare_with, fad_features=fad_features, extra=extra
    )
    table = (out or first_folder / OUT) / table_name.table_name(arguments, in_own_folder=out is None)
    if rows:
        about = {"arguments": arguments, "faults": faults}
        _write_table(table, rows, measures, about, first if "round_trip" in extra else None)
    if faults:
        if rows:
            logging.info("\n%s", report.text(rows))
        raise UserError(_shorten(faults, f"{table.name}.json"))
    return report.text(rows)


def _open_folders(folders: Iterable[Path], by: str) -> tuple[dict[Path, Samples], list[str]]:
    """Opens work folders, and checks that their samples have the setting `by`.

    Returns:
      the samples of each folder, and what is wrong with the other folders.

    Raises:
      UserError: no folder can be evaluated.
    """
    found, faults = {}, []
    for folder in folders:
        try:
            opened = samples.open_samples(folder)
            for sample in opened.values():
                if by:
                    samples.get_setting(sample.record, by)
            found[folder] = opened
        except UserError as error:
            faults.append(str(error))
    faults = list(dict.fromkeys(faults))  # folders that lack a setting have the same
    if not found:
        raise UserError("; ".join(faults))
    return found, faults


def _warn_about_canvases(finished: Mapping[Path, Samples]) -> None:
    by_folder = [set(aggregate.by_canvas(found.values())) for found in finished.values()]
    canvases = sorted(set().union(*by_folder))
    # A single folder with several canvases is reported with its rows.
    if any(len(own) < len(canvases) for own in by_folder if own):
        logging.warning("folders differ: samples of %s pixels have scores that do not compare", " and ".join(canvases))


def _evaluate(
    finished: Mapping[Path, Samples],
    labels: Mapping[Path, str],
    measures: Sequence[Measure],
    compared: References,
    by: str,
    shard: tuple[int, int],
) -> tuple[list[Row], list[str], bool]:
    """Measures a shard of each folder.

    Returns:
      the rows of folders in which nothing is missing, faults, and whether these are all folders.
    """
    rows: list[Row] = []
    faults: list[str] = []
    is_complete = True
    for folder, found in finished.items():
        try:
            missing_scores.score_missing(folder, measures, shard)
            if shard[1] > 1 and (others := missing_scores.find_missing(folder, found.values(), measures)):
                logging.info("%s: other shards have %d more to measure", folder, len(others))
                is_complete = False
                continue
            own_rows, own_faults = aggregate.aggregate_rows(folder, measures, compared, by, labels[folder])
            rows += own_rows
            faults += own_faults
        except UserError as error:
            faults.append(str(error))
    return rows, faults, is_complete


def _labels(folders: Iterable[Path]) -> dict[Path, str]:
    """Returns the name of each folder, or its path if another one has the same name."""
    names = {folder: folder.name or str(folder) for folder in folders}
    counts = collections.Counter(names.values())
    return {folder: name if counts[name] == 1 else str(folder) for folder, name in names.items()}


def _write_table(
    table: Path, rows: Sequence[Row], measures: Iterable[Measure], about: Mapping[str, Any], round_trip: Samples | None
) -> None:
    """Writes the files of a table, and a contact sheet of the samples in `round_trip`, if that is not None.

    Args:
      table: path of the files without their suffix. about: what the JSON file holds besides.
    """
    models = {measure.name: measure.identity for measure in measures if measure.identity}
    report.write(table.parent, table.name, rows, {"machine": hardware.describe(), "models": models, **about})
    if round_trip is not None:
        sheet = resynthesis.contact_sheet(_readable_items(round_trip.values()))
        if sheet is not None:
            files.write(table.parent / f"{table.name}_samples.png", images.png(sheet, {}))
    logging.info("table: %s.md, and .json%s", table, ", .png" * table.with_name(f"{table.name}.png").exists())


def _readable_items(finished: Iterable[Sample]) -> Iterator[Item]:
    for sample in finished:
        try:
            yield read_item(sample)
        except UserError:  # reported with the scores
            continue


def _shorten(faults: Sequence[str], file: str) -> str:
    rest = len(faults) - _SHOWN_FAULTS
    return "; ".join(faults[:_SHOWN_FAULTS]) + (f"; and {rest} more, in {file}" if rest > 0 else "")
