"""Work folders with samples."""

import pytest

from tests.helpers import finished_samples as finished
from tests.helpers.gallery import records


@pytest.fixture(scope="module", params=["folders", "shards"])
def workdir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("some samples")
    finished.write(folder, records(), request.param)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam'ples")
    finished.write(folder, records())
    return folder
