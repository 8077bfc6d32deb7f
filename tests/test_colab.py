"""The notebooks of colab/ run from top to bottom with the embedded models, which replace those of the form."""

import ast
import base64
import io
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient
from packaging.requirements import Requirement
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# These values replace those of the form, so that a notebook takes seconds.
TINY = {"source": "", "use_drive": False, "config": "configs/default.py", "dtype": "float32"}
TINY |= {"image_model": "tiny/image", "audio_model": "tiny/audio", "scorers": "clip@tiny/clip,clap@tiny/clap"}
TINY |= {"image_prompts": "a painting of dogs; a drawing of a castle", "audio_prompts": "bell ringing", "seeds": "0..1"}
TINY |= {"best_share": 1.0, "num_samples": 1, "grid_settings": {"num_steps": 4, "batch_size": 2}}
# Versions on Colab's machines in August 2026, which the install cell does not change.
COLAB = {"jax": "0.7.2", "flax": "0.11.2", "orbax-checkpoint": "0.12.4", "numpy": "2.1.0"}


def read(path):
    return nbformat.read(path, as_version=4)


def parameters(cell):
    """Returns the initial values of the form by name."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}


def tagged(book, tag):
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(cell, kind="text/html"):
    return "".join(output.data.get(kind, "") for output in cell.outputs if "data" in output)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_few_cells_without_functions_or_outputs(path):
    book = read(path)
    nbformat.validate(book)
    assert len(code(book)) <= 10
    for cell in code(book):
        assert not cell.outputs and cell.execution_count is None
        assert not re.search(r"^\s*(def|class|lambda)\b", cell.source, re.MULTILINE)
        assert cell.source.startswith("# @title ")
        assert cell.metadata["cellView"] == "form"  # Colab hides the code
    for form in tagged(book, "parameters"):
        assert all("# @param" in line for line in form.source.splitlines() if re.match(r"\w+ = ", line))


def test_at_most_eight_fields_precede_the_first_sound():
    cells = code(read(ROOT / "colab" / "images_that_sound.ipynb"))
    (first,) = [i for i, cell in enumerate(cells) if "notebook.sample(" in cell.source]
    fields = sum(cell.source.count("# @param") for cell in cells[:first])
    assert 0 < fields <= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_install_cell_keeps_the_jax_of_the_machine(path):
    (install,) = (cell.source for cell in tagged(read(path), "install"))
    assert "upgrade" not in install and " -U" not in install and "its_jax[" not in install
    kept = re.findall(r"\^\((.*?)\)==", install)[0].split("|")
    assert {"jax", "jaxlib", "libtpu", "flax", "numpy"} <= set(kept) and "-c ~/as_it_is.txt" in install


def test_the_versions_on_colab_meet_the_requirements():
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (required,) = [
        node.value for node in ast.walk(setup) if isinstance(node, ast.keyword) and node.arg == "install_requires"
    ]
    for requirement in map(Requirement, ast.literal_eval(required)):
        if requirement.name in COLAB:
            assert requirement.specifier.contains(COLAB[requirement.name]), requirement


@pytest.fixture(
    scope="module",
    params=[pytest.param(path, marks=pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def run(request, tmp_path_factory, quick_programs):
    """Runs a notebook on one device; returns it and its work folder."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    book = read(request.param)
    small = TINY | {"folder": str(folder / "made")}
    for cell in tagged(book, "parameters"):
        values = {name: small.get(name, value) for name, value in parameters(cell).items()}
        cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    if keep := os.environ.get("ITS_JAX_KEEP_NOTEBOOKS"):  # for a person to look at
        nbformat.write(book, pathlib.Path(keep, request.param.name))
    return book, folder / "made"


def cell_of(book, name):
    (cell,) = [cell for cell in book.cells if cell.id == name]
    return cell


def test_all_cells_run_and_log_the_plan_and_the_samples(run):
    book, _ = run
    assert all(cell.execution_count for cell in code(book))
    plan, made = (printed(cell_of(book, name)) for name in ("plan", "grid"))
    assert "4 samples" in plan and "4 samples in " in made
    assert not any("Traceback" in printed(cell) for cell in code(book))


def test_the_cells_of_a_notebook_load_the_models_once(run):
    book, _ = run
    log = "".join(printed(cell) for cell in code(book))
    assert len(re.findall(r"\bload +[\d.]+ s", log)) == 1


def test_the_best_samples_are_shown_with_a_player(run):
    book, folder = run
    shown = outputs(cell_of(book, "best"))
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", shown)
    sounds = re.findall(r"data:audio/wav;base64,([^\"]+)", shown)
    assert 1 <= len(pictures) == len(sounds) <= 4 and "clap " in shown
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    assert picture.shape == (128, 512) and picture.std() > 10 and rate == 16000 and len(waveform) == 81920


def test_the_gallery_is_shown_or_written(run):
    book, folder = run
    cell = cell_of(book, "gallery")
    assert "<iframe" in outputs(cell) or "gallery.html" in outputs(cell, "text/plain")
    assert len(list(folder.rglob("gallery.html"))) >= 1


def test_exported_samples_have_a_record_and_a_video(run):
    _, folder = run
    (packed,) = folder.parent.rglob("best.zip")
    with zipfile.ZipFile(packed) as file:
        names = file.namelist()
        records = [json.loads(file.read(name)) for name in names if name.endswith("sample.json")]
    assert 1 <= len(records) <= 4 and sum(name.endswith("video.mp4") for name in names) == len(records)


def test_the_dtype_is_displayed(run):
    book, _ = run
    assert "dtype: float32 (cpu)" in printed(cell_of(book, "plan"))


def test_without_an_address_the_install_cell_says_what_to_enter():
    (install,) = (cell.source for cell in tagged(read(NOTEBOOKS[0]), "install"))
    code = re.sub(r"^    [!%].*", "    pass", install, flags=re.MULTILINE)
    environment = os.environ | {"PYTHONPATH": ""}
    command = [sys.executable, "-S", "-c", f'source = ""\n{code}']  # -S: without installed packages
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert "its_jax is not installed: enter the address of a repository with it as source, above" in done.stderr


def test_a_release_sets_the_address_in_one_place(tmp_path):
    for name in ("colab", "README.md", "CITATION.cff"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    script = runpy.run_path(str(ROOT / "colab" / "set_repository.py"))
    for _ in range(2):  # it replaces what it wrote before
        script["main"]("https://github.com/someone/its_jax.git", tmp_path)
        for path in (tmp_path / "colab").glob("*.ipynb"):
            (form, *_) = tagged(read(path), "parameters")
            assert parameters(form)["source"] == "https://github.com/someone/its_jax"
        readme = (tmp_path / "README.md").read_text()
        badge = "(https://colab.research.google.com/github/someone/its_jax/blob/main/colab/images_that_sound.ipynb)"
        assert readme.count(badge) == 1 and readme.startswith("# its_jax\n\n[![Open in Colab]")
        citation = (tmp_path / "CITATION.cff").read_text()
        assert citation.count("\nrepository-code: https://github.com/someone/its_jax\n") == 1
    with pytest.raises(ValueError, match="ftp://x: must be as https://github.com/NAME/its_jax"):
        script["main"]("ftp://x", tmp_path)


def test_the_notebooks_and_the_readme_have_the_address_of_the_citation():
    citation = (ROOT / "CITATION.cff").read_text()
    address = "".join(re.findall(r"^repository-code: (.*)$", citation, re.MULTILINE))
    for path in NOTEBOOKS:
        (form, *_) = tagged(read(path), "parameters")
        assert parameters(form)["source"] == address
    assert ("colab-badge.svg" in (ROOT / "README.md").read_text()) == bool(address)
