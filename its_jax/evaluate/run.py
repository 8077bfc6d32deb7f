"""`python -m its_jax.evaluate`, without its flags."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from its_jax.errors import UserError
from its_jax.evaluate import aggregate, feature_networks, measures, references, report
from its_jax.media import images, sounds
from its_jax.runtime import cache, hardware
from its_jax.scoring import clip_clap, registry
from its_jax.scoring.metrics import Gaussian
from its_jax.storage import files, samples

OUT = "evaluation"  # the folder for the tables, in a work folder
_SHOWN = 4  # samples of a round trip
_TOLD = 5  # faults; all are in evaluation.json


def run(
    workdirs: Sequence[str],
    *,
    by: str = "",
    out: Path | None = None,
    models: Mapping[str, str] = {},  # noqa: B006  (is not changed)
    compare_with: Mapping[str, str] = {},  # noqa: B006
    statistics: Mapping[str, str] = {},  # noqa: B006
    fad_features: str = "clap",
    more: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
) -> str:
    """Measures and sums up.

    Args:
      by: a setting whose values get a row each. out: a folder for the tables; None: `OUT` in the first work folder.
      models: `clip`, `clap` -> source; "" is the paper's, or for embedded models the embedded one.
      compare_with: `FID`, `FAD` -> a folder or .npz, "" for none. statistics: the same -> an .npz to write.
      fad_features: `clap` or `vggish`. more: of `griffin_lim` and `round_trip`.
      share: index and count, of the samples of each folder.

    Returns:
      the table as text.

    Raises:
      UserError: what cannot be read, had or written; of other work folders and samples all is measured and told.
    """
    folders = list(dict.fromkeys(files.to_path(workdir) for workdir in workdirs))
    names = [folder.name or str(folder) for folder in folders]
    label = lambda name, folder: name if names.count(name) == 1 else str(folder)  # noqa: E731
    labels = {folder: label(name, folder) for name, folder in zip(names, folders, strict=True)}
    made, faults = _opened(folders)
    _tell_canvases(made)
    cache.keep_programs()
    measured = [sample for of_folder in made.values() for sample in of_folder.values()]
    scorers = _scorers(models, registry.all_tiny(sample.record["image"]["model"] for sample in measured))
    wanted = _measures(scorers, compare_with, fad_features, more)
    distances = _distances(scorers, compare_with, fad_features)
    for name in (name for name, path in statistics.items() if path and name in distances):
        references.write(Path(statistics[name]), distances[name][1])
    rows: list[report.Row] = []
    left = 0
    for folder, of_folder in made.items():
        try:
            aggregate.score_missing(folder, wanted, share)
            if share[1] > 1 and (of_others := aggregate.missing(folder, of_folder.values(), wanted)):
                logging.info("%s: other shares have %d more to measure", folder, len(of_others))
                left += len(of_others)
                continue
            found, of_folder_faults = aggregate.aggregate_rows(folder, wanted, distances, by, labels[folder])
            rows, faults = rows + found, faults + of_folder_faults
        except UserError as error:
            faults.append(str(error))
    if left:
        logging.info("the share that ends last tells all")
        return ""
    faults += [f"{row.name}: {fault}" for row in rows for fault in row.faults]
    if rows:
        out = out or next(iter(made)) / OUT
        report.write(out, rows, _about(wanted) | {"faults": faults})
        if "round_trip" in more and (shown := _round_trip(next(iter(made.values())))) is not None:
            files.write(out / "round_trip.png", images.png(shown, {}))
        logging.info("%s holds the table", out)
    if faults:
        if rows:
            logging.info("\n%s", report.text(rows))
        more_of_them = f"; and {len(faults) - _TOLD} more, in evaluation.json" if faults[_TOLD:] else ""
        raise UserError("; ".join(faults[:_TOLD]) + more_of_them)
    return report.text(rows)


def _opened(folders):
    """Folder -> samples, and what is wrong with the others. UserError: none can be opened."""
    made, faults = {}, []
    for folder in folders:
        try:
            made[folder] = samples.open_samples(folder)
        except UserError as error:
            faults.append(str(error))
    if not made:
        raise UserError("; ".join(faults))
    return made, faults


def _tell_canvases(made):
    of_folders = {folder: set(aggregate.by_canvas(of_folder.values())) for folder, of_folder in made.items()}
    sizes = sorted(set().union(*of_folders.values()))
    if any(len(own) < len(sizes) for own in of_folders.values() if own):  # a folder that mixes them is told of later
        logging.warning("folders differ: samples of %s pixels have scores that do not compare", " and ".join(sizes))


def _scorers(models, embedded):
    own = {"clip": f"{registry.EMBEDDED}clip", "clap": f"{registry.EMBEDDED}clap"}
    default = own if embedded else {"clip": clip_clap.CLIP, "clap": clip_clap.CLAP}
    source = {name: models.get(name) or default[name] for name in default}
    return {"clip": clip_clap.ClipScorer(source["clip"]), "clap": clip_clap.ClapScorer(source["clap"])}


def _measures(scorers, compare_with, fad_features, more):
    wanted = [measures.clip(scorers["clip"]), measures.clap(scorers["clap"])]
    if "griffin_lim" in more:
        wanted.append(measures.griffin_lim(scorers["clap"]))
    if "round_trip" in more:
        wanted.append(measures.round_trip())
    if compare_with.get("FID"):
        wanted.append(measures.image_features(feature_networks.inception(), "inception"))
    if compare_with.get("FAD"):
        extract, identity = _sounds(scorers["clap"], fad_features)
        wanted.append(measures.audio_features(extract, fad_features, identity))
    return wanted


def _distances(scorers, compare_with, fad_features) -> dict[str, tuple[str, Gaussian]]:
    """`FID`, `FAD` -> the kind of features that are compared, and those of the reference."""
    found = {}
    if compare_with.get("FID"):
        found["FID"] = "inception", references.gaussian(compare_with["FID"], _pictures_features)
    if compare_with.get("FAD"):
        extract, _ = _sounds(scorers["clap"], fad_features)
        of_file = lambda path: extract(sounds.read_audio(path, _RATE), _RATE)  # noqa: E731
        found["FAD"] = fad_features, references.gaussian(compare_with["FAD"], of_file)
    return found


def _pictures_features(path):
    return feature_networks.inception()(measures.squares(images.read_image(path).mean(axis=-1)))


def _sounds(clap, kind):
    """What makes features of sounds, and its identity. CLAP's is one vector for each sound, whatever its length."""
    if kind == "vggish":
        return feature_networks.vggish(), ""
    return lambda waveform, rate: clap.embed_audio(waveform, rate).mean(axis=0, keepdims=True), clap.identity


_RATE = 16000  # Hz, of the samples: what they cannot hold does not count in a reference either


def _about(wanted):
    return {"machine": hardware.describe(), "models": {one.name: one.identity for one in wanted if one.identity}}


def _round_trip(made):
    """A few samples, each with the spectrogram of its own sound below: `[h, w, 3]` in [0, 1]; None, if none can be."""
    pictures: list = []
    captions: list = []
    for sample in made.values():
        try:
            item = aggregate.item(sample)
        except UserError:  # it is among the faults
            continue
        prompt = item.settings.terms["audio"].prompt
        pictures += [item.spectrogram, measures.resynthesize(item)]
        captions += [f"{prompt}: what was vocoded", f"{prompt}: what the sound shows"]
        if len(pictures) == 2 * _SHOWN:
            break
    return images.contact_sheet(pictures, captions, 2) if pictures else None
