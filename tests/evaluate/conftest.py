"""Small random models that score."""

import pytest

from tests.helpers import dual_encoder_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The sources of a small random CLIP and CLAP."""
    folder = tmp_path_factory.mktemp("models")
    dual_encoder_folder.build_clip(folder / "clip")
    dual_encoder_folder.build_clap(folder / "clap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITS_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {"clip": str(folder / "clip"), "clap": str(folder / "clap")}
